"""The engine: who reads the connection, who writes it, who waits, and who wakes whom.

One session owns one connection, which has a *read seat* and a *write seat*. Whoever sits in one
uses the connection alone in that direction. Callers sit down themselves: one that waits for bytes
reads them, one with bytes to send writes them, because in Python waking another thread costs more
than the system call it would save. Two daemon threads see to what no caller is there for.

**One lock per session** (``core.py``) guards the protocol and all that threads share. It is never
held while the connection is used, user code is called or a record is logged. Every section under it
has one shape, and one that an exception cuts short ends the session, because what it was changing
may be half changed. A call that an exception ends outside of a section has what it held given back
by whoever enters the next one (``Core.guarded``). What a section leaves to be done without the lock
is done by ``Core.settle``.

From the socket to ``recv()``:
    ``ReadSeat._wait`` (leads, or sleeps) -> ``ReadSeat._dispatch_locked`` -> ``Protocol.feed`` ->
    ``Receiver.receive`` (takes the bytes)
From ``sendall()`` to the socket:
    ``Sender.send`` -> ``Sender._send_at_once`` (takes the seat) -> ``WriteSeat.write_batch`` ->
    ``Transport.send``

============================  =====================================================================
who wakes                     whom
============================  =====================================================================
the leader, having read       readers, acceptors and senders whose stream changed
whoever is done waiting       the oldest follower, if nobody reads
the reader thread             a follower, if nobody reads for two looks in a row (``watchdog.py``)
a change by another caller    all who wait on that stream; a leader through the connection
whoever leaves the write      the sender whose stream goes next; else the writer thread, if
seat                          something is left that no caller waits for; else who waits for that
a finalizer, a handler        the writer thread, by a note (``Core.note``)
an exception that ends a call both threads of the session, to give back what it held
the end                       every thread that waits
============================  =====================================================================

No wake-up is lost, because whoever waits looks under the lock and is found by others before it
lets go of the lock; whoever wakes, for whatever reason, makes its change under the lock first; and
every predicate includes the session's end, which is set once, with its cause.

**The files**, each of which uses those before it: ``waiting`` (how a thread sleeps), ``core`` (the
lock, what it guards, the end), ``keepalive`` and ``outbox`` (pure), ``reading`` (the read seat and
the one wait loop), ``watchdog`` (the reader thread), ``receiving`` (``recv``, ``accept``),
``writing`` (the write seat), ``sending`` (``send``), ``writer`` (the writer thread), ``streams``
(open, close), ``process`` (fork and exit), ``lifecycle`` (the session).
"""

from __future__ import annotations

from muxado.engine.lifecycle import Engine

__all__ = ["Engine"]
