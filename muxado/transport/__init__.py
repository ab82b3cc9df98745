"""The connection below a session, and the only user of the real socket.

Whatever the user gave, the engine sees one kind of transport: it never blocks in a read or a
write, and it can be waited for with a time-out and woken from another thread. Sockets are used as
they are (:mod:`.plain`), TLS through memory (:mod:`.tls`), and any other object through a pair of
sockets and two threads (:mod:`.adapter`).

One thread at a time reads and one at a time writes, which the engine's two seats see to. Reading
and writing may go on at once.
"""

from muxado.transport.base import Buffer, SocketTransport, Transport, close_quietly
from muxado.transport.choose import wrap
from muxado.transport.plain import Plain
from muxado.transport.tls import HANDSHAKE_TIMEOUT, Locked, Secure

__all__ = [
    "HANDSHAKE_TIMEOUT",
    "Buffer",
    "Locked",
    "Plain",
    "Secure",
    "SocketTransport",
    "Transport",
    "close_quietly",
    "wrap",
]
