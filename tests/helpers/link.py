"""A link with delay, little bandwidth and a bounded queue, between two network namespaces.

Loopback is no link: everything is fast on it, and whatever order bytes are sent in looks good. This
one is two TUN devices, each in a namespace of its own, with ``relay.py`` as the wire. It
needs root, Linux and ``/dev/net/tun``, and no package. A socket belongs to the namespace that it
was made in for as long as it lives, so one process can hold both ends.

``python3 tests/helpers/link.py`` tells whether there can be one here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
_IFF_UP = 0x1
_NAME = b"link"

#: The addresses of the two ends.
ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Link:
    """Two ends, 0 and 1.

    ``delay`` is one way, in seconds; ``rate`` in bits a second, ``None`` for as fast as it goes;
    ``queue`` in bytes, what waits for the wire in each direction; ``mtu`` in bytes, larger where
    the rate would be too many packets for a relay in Python. ``congestion`` is TCP's control of
    it by name, ``None`` for the system's. ``processor`` is one for the relay alone, if nothing else
    runs there, ``None`` for any. Raises ``OSError`` where namespaces or TUN devices are not to be
    had.
    """

    def __init__(
        self,
        *,
        delay: float,
        rate: float | None = None,
        queue: int = 1 << 20,
        mtu: int = 1500,
        congestion: str | None = None,
        processor: int | None = None,
    ) -> None:
        self._spaces: list[int] = []
        self._relay: subprocess.Popen[bytes] | None = None
        devices: list[int] = []
        try:
            for address in ADDRESSES:
                space, device = _in_a_thread(_make_end, address, mtu, congestion)
                self._spaces.append(space)
                devices.append(device)
            figures = [delay, (rate or 0) / 8, queue, -1 if processor is None else processor]
            self._relay = subprocess.Popen(
                [
                    sys.executable,
                    Path(__file__).with_name("relay.py"),
                    *map(str, devices + figures),
                ],
                pass_fds=devices,
            )
        except BaseException:
            self.close()
            raise
        finally:
            for device in devices:
                os.close(device)

    def run(self, end: int, function: Callable[..., T], *arguments: Any) -> T:
        """Call it at one end: there its sockets are made and its processes live."""

        def there() -> T:
            _call("setns", self._spaces[end], _CLONE_NEWNET)
            return function(*arguments)

        return _in_a_thread(there)

    def new_socket(self, end: int) -> socket.socket:
        """A TCP socket at one end."""
        return self.run(end, socket.socket)

    def listen(self, end: int) -> socket.socket:
        """A listening socket at one end."""
        listening = self.new_socket(end)
        listening.bind((ADDRESSES[end], 0))
        listening.listen(256)
        return listening

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A connection over the link: its ends 0 and 1."""
        with self.listen(1) as listening:
            near = self.new_socket(0)
            near.connect(listening.getsockname())
            far, _ = listening.accept()
        return near, far

    def close(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
            self._relay = None
        while self._spaces:
            os.close(self._spaces.pop())

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make_end(address: str, mtu: int, congestion: str | None) -> tuple[int, int]:
    """Move this thread to a new namespace; returns a descriptor of it and of its TUN device."""
    _call("unshare", _CLONE_NEWNET)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _NAME, _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, text in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.252")):
                where = struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(text))
                fcntl.ioctl(control, request, struct.pack("16s24s", _NAME, where))
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", _NAME, mtu))
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", _NAME, _IFF_UP))
        # A connection must not start with what the one before it has learned.
        Path("/proc/sys/net/ipv4/tcp_no_metrics_save").write_text("1")
        if congestion is not None:
            Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(congestion)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), device
    except BaseException:
        os.close(device)
        raise


def _call(name: str, *arguments: int) -> None:
    """A function of the C library that returns 0 or sets errno."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(f"this system has no {name}()")
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _in_a_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call it in a thread of its own, which alone changes its namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


if __name__ == "__main__":
    try:
        Link(delay=0.0).close()
    except OSError as error:
        sys.exit(f"no emulated link here: {error}")
