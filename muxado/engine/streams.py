"""How streams begin and end, also those that are dropped without having been closed.

A finalizer runs wherever the collector does, whatever locks the thread holds, so it leaves a note,
which the writer thread carries out. What a dropped file has buffered is sent by a thread of
its own, since that may take as long as the peer likes; what is done on the stream later waits for
it.
"""

from __future__ import annotations

import _thread
import collections
import errno
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muxado.engine.core import Core
from muxado.engine.reading import ReadSeat
from muxado.engine.sending import Sender
from muxado.engine.writing import WriteSeat
from muxado.errors import ErrorCode, os_error
from muxado.protocol import StreamState

if TYPE_CHECKING:
    from muxado.readiness import Readiness

__all__ = ["Streams"]


class Streams:
    """What callers do with streams besides sending and receiving."""

    def __init__(self, core: Core, reading: ReadSeat, writing: WriteSeat, sender: Sender) -> None:
        self._core = core
        self._reading = reading
        self._writing = writing
        self._sender = sender

    def open(self, priority: int, stream_type: int, fin: bool) -> StreamState:
        """A new stream; its SYN goes with its first bytes, or alone a moment later."""
        result = self._core.section(self._open_locked, priority, stream_type, fin)
        if isinstance(result, OSError):
            raise result
        return result

    def _open_locked(self, priority: int, stream_type: int, fin: bool) -> StreamState | OSError:
        core = self._core
        if core.end is not None or core.closing:
            return core.session_error(retryable=True)
        try:
            stream = core.protocol.open(priority, stream_type, fin)
        except OSError as error:
            return error
        if self._writing.parked:
            core.writer_waiter.wake()
        return stream

    def end(self, stream: StreamState) -> None:
        """SHUT_WR: FIN goes at once; a send that waits in another thread fails."""
        self._check_may_shut(stream)
        core = self._core
        action = functools.partial(core.protocol.end, stream, flush_now=True)
        if core.notes or core.orphans:
            core.note(
                functools.partial(self._in_order, stream, lambda: self._change(stream, action))
            )
        else:
            self._change(stream, action)

    def shut_read(self, stream: StreamState) -> None:
        """SHUT_RD: reads return the end of file from now on."""
        self._check_may_shut(stream)
        self._change(stream, functools.partial(self._core.protocol.shut_read, stream))

    def _check_may_shut(self, stream: StreamState) -> None:
        if stream.closed:
            raise os_error(errno.EBADF)
        if stream.failure is not None or self._core.end is not None:
            raise os_error(errno.ENOTCONN)

    def prioritise(self, stream: StreamState, priority: int) -> None:
        """Give ``stream`` another place among those that have something to send."""
        core = self._core

        def prioritise_locked() -> None:
            core.protocol.prioritise(stream, priority)
            # The sender that was woken to go next may no longer be the first.
            self._writing.pass_on_locked()

        self._change(stream, prioritise_locked)

    def reset(self, stream: StreamState, code: int) -> None:
        """RST: both directions end at once; within a section, a moment later."""
        core = self._core
        change = functools.partial(
            self._change, stream, functools.partial(core.protocol.reset, stream, code)
        )
        if core.lock._is_owned():
            core.note(change)
        else:
            change()

    def _change(self, stream: StreamState, action: Callable[[], None]) -> None:
        """Change what the protocol knows of ``stream``, and have all look whom it concerns."""
        self._core.section(self._change_locked, stream, action)

    def _change_locked(self, stream: StreamState, action: Callable[[], None]) -> None:
        if self._core.end is None:
            action()
        self._announce_locked(stream)

    def _announce_locked(self, stream: StreamState) -> None:
        core, protocol = self._core, self._core.protocol
        for queue in (stream.readers, stream.writers):
            if queue:
                queue.wake_all()
        if stream.poller is not None:
            core.stale.append(stream.poller)
        if protocol.changed or protocol.arrived or core.drainers:
            core.announce_locked()

    def close(self, stream: StreamState) -> None:
        """Close ``stream`` for the application; within a section, a moment later."""
        core = self._core
        if core.lock._is_owned() or core.notes or core.orphans:
            self.drop(stream)
        else:
            core.section(self._close_locked, stream)

    def _close_locked(self, stream: StreamState) -> None:
        core, pending = self._core, self._core.protocol.pending
        if stream.closed:
            return
        if core.end is None:
            core.protocol.close(stream)
            if pending.ending and self._reading.asleep:
                pending.flush_now = True
            elif pending.ending and (self._writing.parked or core.closing):
                core.writer_waiter.wake()  # a FIN must not wait for ever for a frame to go with
        stream.closed = True
        stream.write = None
        self._reading.stream_is_over_locked()
        self._announce_locked(stream)
        if stream.poller is not None:
            stream.poller = None
            self._reading.unpin_locked()

    def drop(self, stream: StreamState) -> None:
        """Close ``stream`` where nothing may be waited for: in a finalizer, or inside a section."""
        close = functools.partial(self._core.section, self._close_locked, stream)
        self._core.note(functools.partial(self._in_order, stream, close))

    def leave(self, stream: StreamState, data: bytes) -> None:
        """What a file has left to be sent that was dropped before it was flushed."""
        send = functools.partial(self._sender.send, stream, data, None, True, True)
        self._core.note(functools.partial(self._in_order, stream, send, waits=True))

    def _in_order(
        self, stream: StreamState, action: Callable[[], object], *, waits: bool = False
    ) -> None:
        """Carry ``action`` out after the bytes that dropped files have left on ``stream``.

        ``waits``: it may take as long as the peer likes, so it gets a thread of its own.
        """

        def queue_locked() -> bool:
            actions = self._core.orphans.get(stream)
            if actions is not None:
                actions.append(action)
            elif waits:
                self._core.orphans[stream] = collections.deque([action])
            return actions is None

        if not self._core.section(queue_locked):
            return
        if not waits:
            action()
            return
        try:
            _thread.start_new_thread(self._carry_out_orphans, (stream,))
        except RuntimeError:  # no thread can be started: the bytes are lost, as after a reset
            self._change(
                stream,
                functools.partial(self._core.protocol.reset, stream, ErrorCode.INTERNAL_ERROR),
            )
            self._carry_out_orphans(stream)

    def _carry_out_orphans(self, stream: StreamState) -> None:
        core = self._core

        def next_locked() -> Callable[[], object] | None:
            actions = core.orphans[stream]
            if actions:
                return actions.popleft()
            end_locked()
            return None

        def end_locked() -> None:
            core.orphans.pop(stream, None)
            core.flushers.wake_all()
            if stream.poller is not None:
                core.stale.append(stream.poller)

        try:
            while (action := core.section(next_locked)) is not None:
                try:
                    action()
                except OSError:
                    pass  # there is no caller left who could get it
        except BaseException:
            core.section(end_locked)  # out of memory, perhaps; nobody is to wait for this thread
            raise

    def pin(self, stream: StreamState | None, poller: Readiness) -> Readiness:
        """A descriptor is polled for ``stream`` (or the session): keep reading for it.

        Returns the poller that stands: the one that was there before, if any.
        """
        core = self._core

        def pin_locked() -> Any:
            before = core.session_poller if stream is None else stream.poller
            if before is not None:
                return before
            if stream is None:
                core.session_poller = poller
            elif stream.closed:
                return poller
            else:
                stream.poller = poller
                if core.end is None:
                    core.protocol.announce(stream)
            self._reading.pin_locked()
            return poller

        result: Readiness = core.section(pin_locked)
        return result

    def unpin(self, stream: StreamState | None) -> Any:
        """Undo :meth:`pin`; returns the poller that stood, ``None`` where there was none."""
        core = self._core

        def unpin_locked() -> Any:
            if stream is None:
                poller, core.session_poller = core.session_poller, None
            else:
                poller, stream.poller = stream.poller, None
            if poller is not None:
                self._reading.unpin_locked()
            return poller

        return core.section(unpin_locked)
