"""The kinds of pipe whose ends are muxado's streams."""

from __future__ import annotations

import functools
import importlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from .pipes import End, Kind, Source, tcp_pair
from .torn import Torn

NAMES = ("client", "server", "dial_tls", "listen_tls")


def import_muxado() -> Any:
    """Return the package, or skip the running test while it is not there."""
    try:
        package = importlib.import_module("muxado")
    except ImportError as error:
        pytest.skip(f"muxado cannot be imported: {error}")
    missing = [name for name in NAMES if not hasattr(package, name)]
    if missing:
        pytest.skip(f"muxado has no {', '.join(missing)}")
    return package


@dataclass(frozen=True)
class Layout:
    """What a stream runs over, who opens it, and which end the tests call the near one."""

    name: str
    transport: str = "socketpair"
    opener: str = "client"
    near: str = "opener"
    options: Mapping[str, Any] = field(default_factory=dict)


CONFIGS: dict[str, Mapping[str, Any]] = {
    "": {},
    "-v1": {"version": 1},
}
"""What is added to a kind's name, and the fields of `muxado.Config` it stands for."""

LAYOUTS = [
    Layout("stream"),
    # The near end, which mostly writes first, is the accepted one here: accept() has to see a
    # stream that carries nothing yet.
    Layout("stream-of-server", transport="tcp", opener="server", near="accepter"),
    Layout("stream-over-tls", transport="tls"),
    Layout("stream-torn", transport="torn"),  # in some modules: see TORN_MODULES
]

SOME_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "-v1": ("stream",),
}
"""The layouts of a configuration that does not run over all, to keep the suite quick."""


class StreamSource(Source):
    """Streams between two sessions that share one connection."""

    def __init__(self, crew: Crew, certificate: Certificate | None, layout: Layout) -> None:
        self.crew = crew
        self.layout = layout
        self.muxado = import_muxado()
        make = {
            "socketpair": self._over_pair,
            "tcp": self._over_pair,
            "tls": self._over_tls,
            "torn": self._over_torn,
        }
        client, server = make[layout.transport](certificate)
        self.sessions = (client, server)
        self.opener, self.accepter = (
            (client, server) if layout.opener == "client" else (server, client)
        )

    def _over_pair(self, certificate: Certificate | None) -> tuple[Any, Any]:
        near, far = tcp_pair() if self.layout.transport == "tcp" else socket.socketpair()
        options = self.layout.options
        return self.muxado.client(near, **options), self.muxado.server(far, **options)

    def _over_torn(self, certificate: Certificate | None) -> tuple[Any, Any]:
        near, far = socket.socketpair()
        options = self.layout.options
        client = self.muxado.client(Torn(near, seed=1), **options)
        return client, self.muxado.server(Torn(far, seed=3), **options)

    def _over_tls(self, certificate: Certificate | None) -> tuple[Any, Any]:
        assert certificate is not None
        options = self.layout.options
        listener = self.muxado.listen_tls(("127.0.0.1", 0), certificate.server_context(), **options)
        with listener:
            dialling = self.crew.start(
                self.muxado.dial_tls,
                listener.getsockname(),
                certificate.client_context(),
                server_hostname="localhost",
                timeout=GUARD,
                **options,
            )
            listener.settimeout(GUARD)
            server, _ = listener.accept()
            return dialling.result(), server

    def connect(self) -> tuple[End, End]:
        opened = self.opener.open()
        self.accepter.settimeout(GUARD)
        accepted, _ = self.accepter.accept()
        self.accepter.settimeout(None)
        return (opened, accepted) if self.layout.near == "opener" else (accepted, opened)

    def reset(self, end: Any, peer: End) -> None:
        end.reset()
        end.close()

    def listener(self) -> tuple[Any, Callable[..., End]]:
        def dial(timeout: float | None = None) -> Any:
            return self.opener.dial(("ignored", 0), timeout)

        return self.accepter, dial

    def close(self) -> None:
        for session in self.sessions:
            session.kill()


TORN = "stream-torn"
TORN_MODULES = ("test_cpython_suite", "test_stdlib", "test_threads")
"""Over a connection that is cut short the modules run that never count on a small message coming
whole. Many of the others do, as one may with what they are run over otherwise."""

STREAM_KINDS = [
    Kind(
        layout.name + suffix,
        functools.partial(
            StreamSource,
            layout=Layout(
                layout.name + suffix, layout.transport, layout.opener, layout.near, options
            ),
        ),
        needs_certificate=layout.transport == "tls",
    )
    for suffix, options in CONFIGS.items()
    for layout in LAYOUTS
    if layout.name in SOME_LAYOUTS.get(suffix, (layout.name,))
]
