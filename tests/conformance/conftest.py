"""Fixtures: `pipe` is one connected pair, `pipes` makes as many as a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ..helpers.certificate import Certificate, make_certificate
from ..helpers.crew import Crew
from .pipes import SOCKET_KINDS, Kind, Pipe, Source
from .streams import STREAM_KINDS, TORN, TORN_MODULES

KINDS = [*SOCKET_KINDS, *STREAM_KINDS]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is not meant for a connection that is cut short."""
    items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    kind = None if callspec is None else callspec.params.get("kind")
    return isinstance(kind, Kind) and kind.name == TORN and item.path.stem not in TORN_MODULES


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Starts threads. Torn down after `pipe`, so what a failed test left blocked is woken."""
    crew = Crew()
    yield crew
    crew.finish()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def source(kind: Kind, crew: Crew, request: pytest.FixtureRequest) -> Iterator[Source]:
    certificate = request.getfixturevalue("certificate") if kind.needs_certificate else None
    source = kind.make(crew, certificate)
    yield source
    source.close()


@pytest.fixture
def pipes(kind: Kind, source: Source) -> Iterator[Callable[[], Pipe]]:
    """A function that returns another pipe at each call, all from one source."""
    made: list[Pipe] = []

    def connect() -> Pipe:
        made.append(Pipe(kind, source, *source.connect()))
        return made[-1]

    yield connect
    for pipe in made:
        for end in (pipe.near, pipe.far):
            # Closing a descriptor does not wake a thread that waits on it; shutting it down does.
            try:
                end.shutdown(2)
            except OSError:
                pass  # it is closed or was never more than half there
            end.close()


@pytest.fixture
def pipe(pipes: Callable[[], Pipe]) -> Pipe:
    return pipes()
