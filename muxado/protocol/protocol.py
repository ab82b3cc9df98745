"""The rules of a session, and what its application does with them.

A **session** is one connection and the streams on it. A **stream** is a pair of directions that
end separately. What follows holds for version 2 of the wire unless its codec says otherwise.

**Opening.** A client opens 3, 5, 7, ..., a server 2, 4, 6, .... A stream begins with its SYN, which
may be the frame that carries its first bytes. The peer's ids may arrive in any order.

**Ending.** A direction ends with FIN, which follows its last byte and is never in the frame with
the SYN, because Go's muxado would then end its own direction too. RST ends both directions. What
was received before the peer's RST stays readable, as with TCP; our own drops what was received.

**The table.** A stream is in ``streams`` from its SYN until the application has closed it or it
has failed. An empty FIN, RST or WNDINC for one that is not there is late and ignored; DATA draws
RST STREAM_CLOSED, which tells the peer that nobody reads it.

====================  ==============================================================================
The application       The peer is sent
====================  ==============================================================================
opens a stream        SYN, with the first bytes or alone
sends                 DATA, as far as the stream's window allows
reads                 WNDINC, once half of the window has been read
shuts down writing    FIN
shuts down reading    nothing; what arrives is dropped and WNDINC sent for it
shuts down both       RST STREAM_CLOSED in answer to DATA that still arrives
closes                FIN, or RST STREAM_CANCELLED when bytes were left unread
resets                RST
goes away             GOAWAY; RST STREAM_REFUSED in answer to streams opened after it
====================  ==============================================================================

What the peer's frames do is in ``receiving.py``. A stream that it opened counts against
``max_streams`` until the application has closed it, however it ended.
"""

from __future__ import annotations

import collections
from collections.abc import Callable

from muxado import wire
from muxado.config import Config
from muxado.errors import Error, ErrorCode, SessionClosed, StreamReset, StreamsExhausted
from muxado.protocol.flow import ReceiveWindow, SendWindow, Windows
from muxado.protocol.heartbeats import HeartbeatStreams
from muxado.protocol.limits import Budget, LateFrames
from muxado.protocol.pending import Pending
from muxado.protocol.receiving import Receiver
from muxado.protocol.schedule import Schedule
from muxado.protocol.streams import Failure, StreamState

__all__ = ["MAX_PRIORITY", "Protocol"]

#: The highest priority there is.
MAX_PRIORITY = 0x7FFFFFFF

#: The highest id of a stream. The two above it are those of the heartbeats' probes.
_LAST_ID = 0x7FFFFFFD


class Protocol:
    """All streams of a session, and what is to be sent for them; ``clock`` gives seconds."""

    def __init__(self, config: Config, *, client: bool, clock: Callable[[], float]) -> None:
        self.config = config
        #: The streams by id; see above.
        self.streams: dict[int, StreamState] = {}
        #: Streams that waiting callers or pollers must look at again; the engine empties it.
        self.changed: dict[StreamState, None] = {}
        self._receiver = Receiver(self, clock, client=client)
        self.codec = wire.codec(config, self._receiver)
        self.windows = Windows(config.window, config.max_window, config.max_buffered)
        self.pending = Pending(self.codec, self.windows, clock)
        self.budget = Budget(config.flood_budget, clock)
        self.late = LateFrames()
        #: The id that the next stream of this side gets.
        self.next_id = self.codec.first_id[0 if client else 1]
        #: The id of the heartbeat's probe, which no stream ever has.
        self.probe_id = _LAST_ID + (2 if client else 1)
        #: Streams the peer opened that wait for the application, oldest first.
        self.backlog: collections.OrderedDict[int, StreamState] = collections.OrderedDict()
        self.arrived = False  #: The backlog has changed since the engine last looked.
        #: Streams of the peer whose type has not come whole, with what came of it.
        self.untyped: dict[StreamState, bytearray] = {}
        #: Streams of the peer that count against ``max_streams``.
        self.peer_streams = 0
        #: The highest id of the peer's that the application has accepted.
        self.last_accepted = 0
        self.heartbeat_streams = HeartbeatStreams()
        self.beat_answered = False  #: The peer has answered one since the engine last looked.
        #: Streams that have bytes to send and window to send them in.
        self.schedule: Schedule[StreamState] = Schedule()
        #: Streams of different priority may send, so little should be handed over early.
        self.contended = False
        self._ranks: dict[int, int] = {}  # how many streams may send, by priority
        #: This side takes no new stream.
        self.going_away = False
        #: What the peer's GOAWAY said, if one came: last stream id, code, debug bytes.
        self.goaway: tuple[int, int, bytes] | None = None
        # Counters: frames without a meaning; streams refused, and streams reset by either end.
        self.ignored_frames = self.opened = self.accepted = self.refused = self.broken_off = 0

    # What the peer sends.

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the connection; ``SessionClosed`` if the peer broke a rule."""
        self.codec.feed(data)

    @property
    def under_way(self) -> StreamState | None:
        """The stream whose DATA frame is under way, if a reader may take it from the connection."""
        stream = self._receiver.current
        return None if stream is None or stream.read_shut else stream

    def read_directly(self, stream: StreamState, count: int) -> bool:
        """A reader took ``count`` bytes of that frame; false if nobody wants them any more."""
        last = self.codec.passed(count)
        if self._receiver.current is not stream:
            return False
        wanted = not stream.read_shut
        self.consumed(stream, count)
        self._receiver.on_more(memoryview(b""), last)
        return wanted

    # What the application does.

    def open(self, priority: int, stream_type: int, fin: bool) -> StreamState:
        """A new stream; nothing of it is sent yet."""
        if self.going_away:
            raise SessionClosed("this side is going away: it opens no new stream", retryable=True)
        if self.goaway is not None:
            raise self._receiver.gone_away().exception()
        if self.next_id > _LAST_ID:
            raise StreamsExhausted("every stream id of this session is used up", retryable=True)
        stream = self._open(priority, stream_type)
        self.opened += 1
        stream.ranked = True
        self.rank(priority, 1)
        if fin:
            self.end(stream, flush_now=False)
        return stream

    def _open(self, priority: int, stream_type: int) -> StreamState:
        size = self.config.window
        send, receive = SendWindow(size), ReceiveWindow(size)
        stream = StreamState(self.next_id, True, priority, stream_type, send, receive, False)
        if self.codec.types_in_data:
            send.left -= 4
        self.next_id += 2
        self.windows.promised += size
        self.streams[stream.id] = stream
        self.pending.opening[stream] = None
        return stream

    def announce(self, stream: StreamState) -> None:
        """The opener is going to wait for the peer: the SYN must not wait for bytes to carry."""
        if not stream.opened:
            self.pending.syn_due = self.pending.flush_now = True

    def accept(self) -> StreamState | None:
        """The next stream the peer opened, if one waits."""
        if not self.backlog:
            return None
        _, stream = self.backlog.popitem(last=False)
        self.last_accepted = max(self.last_accepted, stream.id)
        self.accepted += 1
        stream.accepted = True
        return stream

    def consumed(self, stream: StreamState, count: int) -> None:
        """The application has read ``count`` bytes, or they were dropped in its name.

        An update that is due may wait for more, unless the peer has little window left.
        """
        if stream.failure is not None:
            self.windows.kept -= count
            return
        window = stream.receive
        window.read += count
        if window.read >= window.due and not stream.fin_in:
            self.pending.grants[stream] = None
            if 2 * window.read >= window.size:
                self.pending.flush_now = True

    def prioritise(self, stream: StreamState, priority: int) -> None:
        """Change the priority of ``stream``."""
        if stream.ranked:
            self.rank(stream.priority, -1)
            self.rank(priority, 1)
        stream.priority = priority
        if stream in self.schedule:
            self.schedule.add(stream, priority)

    def end(self, stream: StreamState, flush_now: bool) -> None:
        """No more bytes to send: FIN follows. Bytes not yet handed over are given up."""
        if stream.fin_out or stream.failure is not None:
            return
        stream.fin_out = True
        self._stop_sending(stream)
        self.pending.ending[stream] = None
        if flush_now:
            self.pending.flush_now = True

    def shut_read(self, stream: StreamState) -> None:
        """SHUT_RD: what was received and not read, and what still comes, is dropped."""
        stream.read_shut = True
        if unread := stream.buffer.size:
            stream.buffer.clear()
            self.consumed(stream, unread)

    def close(self, stream: StreamState) -> None:
        """The application closes it: FIN, which may wait if nothing was sent last, or RST."""
        if stream.closed:
            return
        if stream.failure is not None:
            self.windows.kept -= stream.buffer.size
            stream.buffer.clear()
        elif stream.buffer.size or stream is self._receiver.current:
            self.break_off(stream, "closed with bytes unread", ErrorCode.STREAM_CANCELLED)
        else:
            self.end(stream, flush_now=stream.wrote)
            if not stream.fin_in:
                self.late.ends += 1
            self.forget(stream)
        if stream.accepted:
            self.peer_streams -= 1
            if stream in self.pending.ending or stream.id in self.pending.resets:
                self.pending.drawn += 1
        stream.closed = True

    def reset(self, stream: StreamState, code: int) -> None:
        """End both directions at once, drop what was received, and tell the peer."""
        if stream.failure is None and not stream.closed:
            text = f"this side reset the stream: {ErrorCode.of(code).name}"
            self.break_off(stream, text, code)

    def refuse_backlog(self) -> None:
        """Reset what the application never accepted, so that its opener may try elsewhere."""
        for stream in [*self.backlog.values(), *self.untyped]:
            self.refuse(stream, ErrorCode.STREAM_REFUSED)

    def go_away(self, code: int, debug: bytes, *, final: bool) -> None:
        """Have GOAWAY sent; new streams of the peer are refused from here on."""
        self.going_away = True
        # A stream that waits for accept() may still be handed out, even after the end.
        last = max(self.last_accepted, *self.backlog, 0)
        if not final:  # heartbeats are still answered: without that Go ends the session
            last = max(last, *[s.id for s in self.heartbeat_streams.streams if not s.local], 0)
        self.pending.goaway = self.codec.goaway(last, code, debug, final=final)
        self.pending.flush_now = True

    # Frames to send.

    def data_header(self, stream: StreamState, length: int) -> bytes:
        """What goes before ``length`` bytes of ``stream``, which count as sent: SYN and header."""
        stream.send.left -= length
        pending = self.pending
        if not stream.opened:
            return pending.syn(stream, length)
        pending.frames_sent += 1
        pending.framed += length + 8
        return self.codec.data(stream.id, length)

    def control_frames(self, opening: bool) -> bytes:
        """All frames to send but the application's DATA; ``opening``: see ``Pending.take``."""
        heartbeats = self.heartbeat_streams
        echoes = self.heartbeats(overtaking=False) if heartbeats.waiting else b""
        alone = len(self.streams) - len(heartbeats.streams) <= 1
        return echoes + self.pending.take(opening=opening, alone=alone)

    def beat(self) -> bool:
        """Have a question sent that any living peer answers; false if it would not answer one.

        Version 2: an empty DATA frame on an id that is never opened draws RST STREAM_CLOSED from
        every peer. Version 1: a stream of the heartbeat's type, whose bytes come back.
        """
        heartbeats = self.heartbeat_streams
        if self.codec.asks_by_stream:
            own = heartbeats.own
            if own is None:
                assert self.codec.heartbeat_type is not None
                heartbeats.own = own = self._open(MAX_PRIORITY, self.codec.heartbeat_type)
                heartbeats.streams[own] = bytearray()
            elif own.failure is not None or own.fin_in:
                return False  # the peer refused it, and may not be asked twice
            heartbeats.ask(own)
        else:
            self.pending.probe = self.codec.data(self.probe_id, 0)
        self.pending.flush_now = True
        return True

    @property
    def heartbeat_due(self) -> bool:
        """Whether :meth:`heartbeats` has anything to send."""
        heartbeats = self.heartbeat_streams
        return bool(self.pending.probe or (heartbeats.waiting and heartbeats.due(overtaking=True)))

    def heartbeats(self, *, overtaking: bool = True) -> bytes:
        """The heartbeats to send; with ``overtaking`` those that may go before frames made earlier.

        No other frame may: FIN and RST follow their stream's data, a SYN those of lower ids.
        """
        probe, self.pending.probe = self.pending.probe, b""
        frames = self.pending.counted([probe]) if probe else b""
        for stream, data in self.heartbeat_streams.due(overtaking=overtaking):
            del self.heartbeat_streams.waiting[stream]
            frames += self.data_header(stream, len(data)) + data
        return frames

    # The end of a stream, and of the session; also for the receiver.

    def break_off(
        self, stream: StreamState, text: str, code: int, kind: type[Error] = StreamReset
    ) -> None:
        """Fail ``stream`` and tell the peer, unless the peer never heard of it."""
        self.broken_off += 1
        if stream.opened:
            self.pending.reset(stream.id, code)
            self.late.ends += not stream.fin_in
        self.fail(stream, Failure(kind, text, code, retryable=not stream.opened))

    def fail(self, stream: StreamState, failure: Failure, *, keep: bool = False) -> None:
        """``stream`` is over; with ``keep``, what was received stays readable."""
        stream.failure = failure
        if keep:
            self.windows.kept += stream.buffer.size
        else:
            stream.buffer.clear()
        self._stop_sending(stream)
        for kind in (self.pending.opening, self.pending.ending, self.pending.grants):
            kind.pop(stream, None)
        self.forget(stream)
        if stream.readers or stream.writers or stream.poller is not None:
            self.changed[stream] = None

    def refuse(self, stream: StreamState, code: int) -> None:
        """Reset ``stream``, which the application has not accepted."""
        self.refused += 1
        self.pending.reset(stream.id, code)
        self.fail(stream, Failure(SessionClosed, "never accepted", code))

    def forget(self, stream: StreamState) -> None:
        """Take ``stream`` out of the table."""
        if self.streams.get(stream.id) is not stream:
            return
        del self.streams[stream.id]
        if self.heartbeat_streams.streams.pop(stream, None) is not None:
            self.heartbeat_streams.waiting.pop(stream, None)
        elif not (stream.local or stream.accepted):
            self.peer_streams -= 1
        self.late.credit += stream.send.most - stream.send.left
        self.windows.promised -= stream.receive.size
        if stream.receive.left or stream.fin_in:
            self.pending.grants.pop(stream, None)
        # otherwise the peer could not even send the DATA that is answered with a reset
        self.untyped.pop(stream, None)
        if self._receiver.current is stream:
            self._receiver.current = None
        if self.backlog.pop(stream.id, None) is not None:
            self.arrived = True  # whoever polls for it must look again

    def _stop_sending(self, stream: StreamState) -> None:
        if stream.ranked:
            stream.ranked = False
            self.rank(stream.priority, -1)
        if stream in self.schedule.waiting:
            self.schedule.discard(stream)
        stream.write = None

    def rank(self, priority: int, change: int) -> None:
        """One stream more (``change`` is 1) or less (-1) of ``priority`` may send."""
        ranks = self._ranks
        ranks[priority] = ranks.get(priority, 0) + change
        if not ranks[priority]:
            del ranks[priority]
        self.contended = len(ranks) > 1

    def abandon_opening(self) -> None:
        """The session ends: the peer is not told any more of streams that it does not know."""
        self.pending.syn_due = False
        for stream in self.pending.opening:
            self.pending.ending.pop(stream, None)
        self.pending.opening.clear()

    def unseen(self, stream: StreamState, sent: int | None) -> bool:
        """Whether the peer cannot have seen ``stream`` if it got ``sent`` bytes (None: unknown)."""
        if not stream.local or not stream.opened:
            return stream.local
        return sent is not None and stream.syn_end > sent

    # What there is.

    @property
    def buffered(self) -> int:
        """Bytes received and not read."""
        return self.windows.kept + sum([s.buffer.size for s in self.streams.values()])

    @property
    def alive(self) -> int:
        """How many streams are the application's, or on their way to it."""
        return len(self.streams) - len(self.heartbeat_streams.streams)
