"""What finalizers leave behind, and who sees to it.

A finalizer runs where the collector strikes: in any thread, inside any lock. So it takes none,
waits for nothing and does no I/O. It appends to ``_dropped``, whose order is the order in which
things were done, and wakes the writer thread. That thread ends the stream or the session; and it
sends the *will* of a file that was dropped before it was flushed. A caller that goes on with the
stream first makes sure that a will of before stands before it.
"""

from __future__ import annotations

import time

from muxado.engine.read_seat import ReadSeat
from muxado.engine.shared import Poller
from muxado.engine.write_seat import Write
from muxado.errors import ErrorCode
from muxado.protocol import StreamState

__all__ = ["Dropped", "Will"]


class Will:
    """Bytes still to be sent on a stream, and what is to become of it then."""

    __slots__ = ("closes", "ends", "write")

    def __init__(self, write: Write) -> None:
        self.write = write
        self.ends = False  # SHUT_WR
        self.closes = False


class Dropped(ReadSeat):
    """The part of the engine that outlives those who used it."""

    __slots__ = ()

    def drop(self, stream: StreamState) -> None:
        """A finalizer's close: takes no lock, waits for nothing, does no I/O."""
        self._dropped.append((stream, None))
        self._rouse()

    def bequeath(self, stream: StreamState, data: bytes) -> None:
        """A finalizer's send, in the same manner. Nobody is told whether it succeeds."""
        self._dropped.append((stream, data))
        self._bequeathed = True  # after it: then whoever clears this has seen it
        self._rouse()

    def abandon(self) -> None:
        """Close the session where nobody may wait: in a finalizer, or a handler of a signal."""
        self._abandoned = True
        self._rouse()

    def _rouse(self) -> None:
        """Wake the writer thread, without the lock that others wake it under."""
        try:
            self._writer_waiter.release()
        except RuntimeError:
            pass  # it is awake, and looks before it sleeps
        if not self._inline:
            try:
                self._keeper_waiter.release()
            except RuntimeError:
                pass

    def collect(self) -> None:
        """Take up what was left before: by a caller, who must come after it."""
        try:
            with self._lock:
                try:
                    self._take_up_locked()
                except BaseException as error:  # from outside: something may have got lost
                    try:
                        self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
                    except BaseException:
                        self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
                    raise
                pollers = self._announce_locked()
            self._follow_up(pollers)
        except BaseException:
            try:
                self._give_up(None, None, [])
            except BaseException:
                self._give_up(None, None, [])
            raise

    def _collect_locked(self) -> list[Poller] | None:
        """Do what finalizers have left to be done."""
        self._take_up_locked()
        self._carry_out_locked()
        if self._abandoned and self._silent:
            self._die_locked(ErrorCode.NO_ERROR, None, b"")
        elif self._abandoned and self._closes_by is None:
            self._closes_by = time.monotonic() + self.config.linger
            self._flushers.append(self._writer_waiter)
            self._stop_locked()
            return self._pollers_locked()
        return self._announce_locked()

    def _take_up_locked(self) -> None:
        self._bequeathed = False
        while self._dropped:
            try:
                stream, data = self._dropped.popleft()
            except IndexError:
                break
            if data is None:
                self._drop_locked(stream)
            elif not self._lost_locked(stream):
                self._inherit_locked(stream, data)
            self._wake_all_locked(self._flushers)  # what is lost is owed no more, nor written

    def _lost_locked(self, stream: StreamState) -> bool:
        """Nothing can be sent on it any more."""
        return self.death is not None or stream.failure is not None or stream.fin_out

    def _drop_locked(self, stream: StreamState) -> None:
        """Close ``stream``, once its will is done."""
        self._unpin_locked(stream)
        if stream in self._wills:
            self._wills[stream].closes = True
            return
        if self.death is None:
            self.protocol.close(stream)
            self.protocol.urgent = True
        stream.closed = True
        self._wake_readers_locked(stream)
        self._wake_all_locked(stream.writers)

    # Wills.

    def _inherit_locked(self, stream: StreamState, data: bytes) -> None:
        will = self._wills.get(stream)
        if will is not None and will.write.sent < len(will.write.data):
            will.write.data = memoryview(will.write.data.tobytes() + data)
            return
        write = Write(stream, memoryview(data))
        write.thread = 0  # nobody's who might come again
        write.waiter = self._writer_waiter
        if will is not None:
            will.write = write
        else:
            self._wills[stream] = Will(write)
            if stream.writers is None:
                stream.writers = []
            # So it learns of window, of another's write that is over, and of the end.
            stream.writers.append(self._writer_waiter)
        self._bring_forward_locked(stream)

    def _bring_forward_locked(self, stream: StreamState) -> None:
        """It is the turn of what is left for ``stream``, if anything is."""
        write = self._wills[stream].write
        if stream.write is None and write.sent < len(write.data):
            stream.write = write
            stream.wrote = True
        if stream.write is write and stream.send.left > 0:
            self.protocol.schedule.add(stream, stream.priority)

    def _carry_out_locked(self) -> None:
        """Go on with every will; a stream whose own is done is ended if it was to be."""
        for stream, will in list(self._wills.items()):
            if not self._lost_locked(stream):
                self._bring_forward_locked(stream)
                if stream.write is will.write or will.write.sent < len(will.write.data):
                    continue
            del self._wills[stream]
            if stream.writers and self._writer_waiter in stream.writers:
                stream.writers.remove(self._writer_waiter)
            if will.ends and self.death is None:
                self.protocol.end(stream, urgent=True)
            if will.closes:
                self._drop_locked(stream)
            self._wake_all_locked(stream.writers)
            self._wake_all_locked(self._flushers)

    # What stands above: see the package.

    def _stop_locked(self) -> None:
        raise NotImplementedError

    def _unpin_locked(self, stream: StreamState | None) -> None:
        raise NotImplementedError
