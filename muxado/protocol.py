"""The session's state: streams, half-closes, windows, GOAWAY. No socket, no lock, no clock.

The rules, for version 2 unless a codec says otherwise:

* A client opens 3, 5, 7, ..., a server 2, 4, 6, .... A stream begins with its SYN, which may be
  the frame that carries its first bytes. Ids may arrive in any order; a SYN of our parity, or for
  a stream that lives, ends the session.
* Each direction ends by itself, with FIN behind its last byte. RST ends both at once and drops
  what was received and not read.
* A stream is in the table while the application holds it and the peer may still speak on it.
  Closing removes it: what comes later draws RST STREAM_CLOSED, which tells the peer that nobody
  listens, and is not kept. An empty FIN, RST or WNDINC for a stream not in the table is late
  news and ignored.
* DATA beyond the window resets that stream alone. Its length is checked when its header is
  there, before its body.
* After GOAWAY was sent, new streams are refused; those under way go on.
* A stream of the peer's counts against ``max_streams`` until the application has let go of it,
  however it ended.
* What serves no stream is charged to a budget of so many a second; see ``_charge``.

=====================  =====================================================================
application            what is owed to the peer
=====================  =====================================================================
opens                  SYN: with the first bytes, or alone
sends                  DATA, as the window allows
reads                  WNDINC, when half of the window has been read
ends its sending       FIN
closes                 FIN; RST STREAM_CANCELLED when bytes were left unread
resets                 RST with its code
=====================  =====================================================================

What is owed is kept as state, one entry per stream and kind, so that a peer which makes us owe
something cannot make us collect it: ``resets``, ``grants``, ``opening``, ``ending``.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple
from typing import Protocol as Interface

from muxado import wire
from muxado.budget import Budget
from muxado.config import Config
from muxado.errors import (
    EnhanceYourCalm,
    Error,
    ErrorCode,
    FlowControlError,
    ProtocolError,
    RemoteGoneAway,
    SessionClosed,
    StreamRefused,
    StreamReset,
    StreamsExhausted,
)
from muxado.flow import ReceiveWindow, SendWindow, Windows
from muxado.schedule import Schedule

__all__ = ["MAX_PRIORITY", "Failure", "Protocol", "SessionEnd", "StreamState"]

#: The highest priority there is.
MAX_PRIORITY = 0x7FFFFFFF

#: Received pieces shorter than this are joined to the piece before them, so that a flood of
#: tiny frames costs the memory of its bytes and not of an object each.
_SMALL = 4096

#: Resets that the peer has drawn, and ends of streams that it opened, which the connection has not
#: taken yet; over it the peer is told to calm down.
_MAX_OWED = 20_000

#: Bytes of heartbeats that a peer may leave unread.
_MAX_ECHO = 4096

#: Heartbeat streams that a peer may have open. One is all it needs.
_MAX_SERVICES = 16

# What is charged to the budget of ``Config.flood_budget``. Nothing: DATA with bytes, SYN, FIN, an
# update of a window that was used, and what a peer cannot help sending to a stream that it does
# not know to be over: a window of data, an update for each of its reads, an RST for each frame.
#: A frame that changes nothing, or draws a reset. Go sends FIN twice, for one.
_USELESS = 1
#: A stream that the peer broke off before this side had sent anything on it, or made this side
#: break off.
_WASTED = 5
#: A GOAWAY, of which one is enough.
_FAREWELL = 100

_NOTHING = memoryview(b"")

#: The highest ids are not handed out: one of them is the heartbeat's probe.
_LAST_ID = 0x7FFFFFFD


class SessionEnd(NamedTuple):
    """Why a session ended: ``code``, the ``error`` behind it if any, the peer's ``debug`` bytes."""

    code: ErrorCode
    error: BaseException | None
    debug: bytes


class Failure(NamedTuple):
    """What to raise for a stream that failed: a new exception for each caller that asks."""

    kind: type[Error]
    message: str
    code: int
    retryable: bool = False
    cause: BaseException | None = None

    def exception(self) -> Error:
        """A fresh instance, its cause chained."""
        error = self.kind(self.message, code=self.code, retryable=self.retryable)
        error.__cause__ = self.cause
        return error


class Holder(Interface):
    """Memory with bytes of a stream in it."""

    view: memoryview
    count: int  #: so many, from its beginning


class StreamState:
    """One stream: what was received and not read, both windows, how far it is closed."""

    __slots__ = (
        "accepted",
        "acceptor",
        "answered",
        "buffered",
        "chunks",
        "closed",
        "deaf",
        "failure",
        "fin_in",
        "fin_out",
        "id",
        "local",
        "opened",
        "poller",
        "post",
        "priority",
        "ranked",
        "readers",
        "receive",
        "returns",
        "send",
        "skip",
        "stream_type",
        "syn_end",
        "write",
        "writers",
        "wrote",
    )

    def __init__(
        self, stream_id: int, local: bool, window: int, priority: int, stream_type: int
    ) -> None:
        self.id = stream_id
        #: Whether this side opened it.
        self.local = local
        self.priority = priority
        #: It is counted in the protocol's `levels`.
        self.ranked = False
        self.stream_type = stream_type
        self.send = SendWindow(window)
        self.receive = ReceiveWindow(window)
        #: What was received, oldest first; `skip` bytes of the first piece are read already.
        self.chunks: list[bytes | bytearray] = []
        self.skip = 0
        #: Bytes received and not read.
        self.buffered = 0
        #: The peer has sent FIN, and everything before it is here.
        self.fin_in = False
        #: This side takes no more bytes to send: FIN is owed or sent.
        self.fin_out = False
        #: SHUT_RD: what arrives is read and dropped.
        self.deaf = False
        #: The SYN has been handed to the connection (or came from the peer).
        self.opened = not local
        #: The count of the session's bytes up to the end of that SYN.
        self.syn_end = 0
        #: The peer has sent something for it.
        self.answered = False
        #: The peer opened it, and the application has got it.
        self.accepted = False
        #: The application let go of it.
        self.closed = False
        #: Why it ended before its time.
        self.failure: Failure | None = None
        #: The last thing the application did was to send: the peer probably waits for the end.
        self.wrote = False
        # For the engine, which guards them with the session's lock; nothing here reads them
        # but for whether there is anybody to tell.
        #: Who waits for something to read.
        self.readers: list[Any] | None = None
        #: The memory of one who waits, for the read seat to fill: see read_seat.py.
        self.post: Any = None
        #: Who waits for window, or for a turn to write.
        self.writers: list[Any] | None = None
        #: The descriptor that polls for this stream, once one was asked for.
        self.poller: Any = None
        #: The bytes that wait to be sent.
        self.write: Any = None
        #: The thread that accepted it; and that is the one who waits for what comes behind the
        #: answer.
        self.acceptor = 0
        self.returns = False

    def push(self, piece: memoryview) -> None:
        """Keep ``piece``, which has just arrived."""
        size = len(piece)
        chunks = self.chunks
        # Counted last: whoever sees the count, after an exception too, finds the bytes.
        if size < _SMALL and chunks and len(chunks[-1]) < _SMALL:
            last = chunks[-1]
            if type(last) is bytes:
                chunks[-1] = last = bytearray(last)
            last += piece
        else:
            chunks.append(bytes(piece))
        self.buffered += size

    def peek(self, count: int) -> bytes:
        """Up to ``count`` bytes, which stay."""
        if not self.chunks:
            return b""
        first, skip = self.chunks[0], self.skip
        have = len(first) - skip
        if count < have:
            return bytes(memoryview(first)[skip : skip + count])
        if count == have or len(self.chunks) == 1:
            if skip:
                return bytes(memoryview(first)[skip:])
            return first if type(first) is bytes else bytes(first)
        parts: list[memoryview] = []
        for index, chunk in enumerate(self.chunks):
            start = 0 if index else skip
            part = memoryview(chunk)[start : start + count]
            parts.append(part)
            count -= len(part)
            if not count:
                break
        return b"".join(parts)

    def copy_into(self, into: memoryview) -> int:
        """Copy bytes into ``into``, as many as fit; returns how many. They stay."""
        done, room = 0, len(into)
        for index, chunk in enumerate(self.chunks):
            start = 0 if index else self.skip
            part = min(len(chunk) - start, room - done)
            if part == len(chunk):
                into[done : done + part] = chunk
            else:
                into[done : done + part] = memoryview(chunk)[start : start + part]
            done += part
            if done == room:
                break
        return done

    def ahead(self, count: int) -> tuple[int, int]:
        """Where ``count`` bytes end: so many pieces are among them, and so much of the next."""
        count += self.skip
        gone = 0
        for chunk in self.chunks:
            if count < len(chunk):
                break
            count -= len(chunk)
            gone += 1
        return gone, count

    def take(self, count: int) -> bytes:
        """Remove and return up to ``count`` bytes; there must be some."""
        data = self.peek(count)
        self.drop(len(data))
        return data

    def drop(self, count: int) -> None:
        """Remove ``count`` bytes; there must be as many."""
        gone, skip = self.ahead(count)
        del self.chunks[:gone]
        self.skip = skip
        self.buffered -= count

    def clear(self) -> None:
        """Forget what was received."""
        self.skip = self.buffered = 0  # first: an exception from outside may strike behind a call
        self.chunks.clear()


class Protocol:
    """All streams of a session and what the session owes its peer.

    The methods that begin with ``on_`` are the codec's ``Handler``. Everything is guarded by the
    one lock of the session that owns it. ``clock`` tells the time in seconds; where it stands
    still, receive windows stay as they are and a budget is never refilled.
    """

    # What every frame asks for is found faster in slots. The rest is in the dictionary.
    __slots__ = (
        "__dict__",
        "_clock",
        "_current",
        "_current_fin",
        "_goaway",
        "_late_credit",
        "_late_ends",
        "_owed",
        "_parity",
        "_probing",
        "_says",
        "_syn_due",
        "_untyped",
        "accepted",
        "arrived",
        "backlog",
        "beat_answered",
        "changed",
        "codec",
        "config",
        "ending",
        "framed",
        "frames_sent",
        "goaway",
        "going_away",
        "grants",
        "last_accepted",
        "last_peer_id",
        "levels",
        "mixed",
        "next_id",
        "opened",
        "opening",
        "peer_streams",
        "resets",
        "schedule",
        "services",
        "streams",
        "urgent",
        "windows",
    )

    def __init__(
        self, config: Config, *, client: bool, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.config = config
        self._clock = clock
        self.windows = Windows(config.window, config.max_window, config.max_buffered)
        self.codec = wire.codec(config, self)
        self.client = client
        #: What the peer may send that serves no stream.
        self.budget = Budget(config.flood_budget, clock)
        self.streams: dict[int, StreamState] = {}
        self.next_id = self.codec.first_id[0 if client else 1]
        self._parity = self.next_id & 1
        #: Streams the peer opened that wait for the application, oldest first.
        self.backlog: collections.OrderedDict[int, StreamState] = collections.OrderedDict()
        #: Streams of the peer's that count against ``max_streams``: see the rules above.
        self.peer_streams = 0
        self._late_credit = 0  # bytes sent on streams that are gone, which may yet be granted back
        self._late_resets = 0  # for streams that are gone
        self._late_ends = 0  # streams that are gone and whose FIN may yet come
        #: The highest id of the peer's that reached the application.
        self.last_accepted = 0
        self.last_peer_id = self.codec.first_id[1 if client else 0] - 2
        #: Streams whose SYN is not sent yet, in the order of their ids.
        self.opening: collections.OrderedDict[StreamState, None] = collections.OrderedDict()
        #: Streams whose FIN is not sent yet.
        self.ending: dict[StreamState, None] = {}
        #: Streams with an update of their receive window due; see consumed() for how urgent.
        self.grants: dict[StreamState, None] = {}
        #: Stream ids to reset, with the code.
        self.resets: dict[int, int] = {}
        self._owed = 0  # how much is owed that counts against _MAX_OWED
        self.schedule: Schedule[StreamState] = Schedule()
        #: How many of the application's streams may still send, by their priority.
        self.levels: dict[int, int] = {}
        #: There is more than one level: what is handed to the connection early may stand before
        #: something more urgent.
        self.mixed = False
        #: Something owed must go at once; what is only in `opening` and `ending` may wait for
        #: a frame to ride along with.
        self.urgent = False
        self._syn_due = False  # SYNs must not wait for their first bytes any longer
        #: This side takes no new stream.
        self.going_away = False
        self._goaway: bytes | None = None
        #: What the peer's GOAWAY said, if one came: last stream id, code, debug bytes.
        self.goaway: tuple[int, int, bytes] | None = None
        self._gone_above = _LAST_ID + 2  # what it left of our streams
        #: Streams somebody may wait for, changed since the engine last looked.
        self.changed: list[StreamState] = []
        #: The backlog has changed.
        self.arrived = False
        #: Streams of the peer whose type has not come whole, with what came of it.
        self._untyped: dict[StreamState, bytearray] = {}
        #: Heartbeat streams, with the bytes of a beat not yet whole.
        self.services: dict[StreamState, bytearray] = {}
        self._says: dict[StreamState, bytes] = {}  # what is owed on them
        self._pulse: StreamState | None = None  # the one that this side opened
        self._question = b""  # what the peer should echo on it
        self._probe_id = _LAST_ID + 2 if client else _LAST_ID + 1
        self._probing = False  # a probe is owed
        #: The peer has answered a heartbeat since the engine last looked.
        self.beat_answered = False
        self._first: bytearray | None = bytearray()  # of the connection, until looked at
        self._current: StreamState | None = None  # whose DATA frame is under way
        self._current_fin = False
        #: Counters since the start.
        self.ignored_frames = self.opened = self.accepted = 0
        self.frames_sent = 0
        self.framed = 0  # bytes in them; where the connection ends they may not all be sent
        self.refused = 0  # streams of the peer's that found no room
        self.broken_off = 0  # streams that were reset, by either end

    # What the peer sends: the codec's Handler.

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the connection; what they change shows in the attributes.

        Raises a ``SessionClosed`` of the kind that fits when the peer broke a rule.
        """
        if self._first is not None:
            self._look_at_first(data)
        self.codec.feed(data)

    def _look_at_first(self, data: memoryview) -> None:
        """Whether this is a muxado at all, by its first four bytes.

        Most others would break a rule at once, but with an error that helps nobody, and some
        would be taken for the header of a long frame to skip.
        """
        assert self._first is not None
        self._first += data[:4]
        if len(self._first) >= 4:
            guess = self.codec.guess(bytes(self._first[:4]))
            self._first = None
            if guess:
                version = self.config.version
                raise ProtocolError(
                    f"this looks like {guess}, not like a peer with version={version}"
                )

    def _charge(self, cost: int) -> None:
        """The peer has sent what serves no stream."""
        if not self.budget.charge(cost):
            size = self.budget.size
            raise EnhanceYourCalm(f"the peer sends more than {size} useless frames a second")

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None:
        if not stream_id or stream_id & 1 == self._parity:
            raise ProtocolError(f"the peer opened stream {stream_id}, an id of the wrong parity")
        if stream_id in self.streams:
            raise ProtocolError(f"SYN for stream {stream_id}, which is open")
        codec = self.codec
        if stream_id > self.last_peer_id:
            self.last_peer_id = stream_id
        elif codec.strict_ids:
            raise ProtocolError(f"SYN for stream {stream_id} after {self.last_peer_id}")
        if self._owed > _MAX_OWED:
            self._check_owed()
        if (self.going_away or self.peer_streams >= self.config.max_streams) and (
            not codec.carries_types or stream_type != codec.heartbeat_type
        ):
            self.refused += 1
            self._draw_reset(stream_id, ErrorCode.STREAM_REFUSED)
            return
        stream = StreamState(stream_id, False, self.config.window, priority, stream_type)
        self.streams[stream_id] = stream
        self.windows.opened()
        self.peer_streams += 1
        if codec.types_in_data:
            self._untyped[stream] = bytearray()  # whose silence must hold up no other
        else:
            self._admit(stream)

    def _admit(self, stream: StreamState) -> None:
        """A new stream of the peer, its type known: to the application, or to the heartbeat."""
        codec = self.codec
        if codec.carries_types and stream.stream_type >= codec.reserved_types:
            if stream.stream_type != codec.heartbeat_type:
                self._refuse(stream, ErrorCode.STREAM_CLOSED)
            elif len(self.services) >= _MAX_SERVICES:
                self._refuse(stream, ErrorCode.STREAM_REFUSED)
            else:
                self._charge(_WASTED)  # or it could open and end them for ever
                self.services[stream] = bytearray()
                self.peer_streams -= 1
        elif self.going_away:  # it came before, its type only now
            self._refuse(stream, ErrorCode.STREAM_REFUSED)
        elif len(self.backlog) >= self.config.accept_backlog:
            self._refuse(stream, ErrorCode.ACCEPT_QUEUE_FULL)
        else:
            self.backlog[stream.id] = stream
            self.arrived = True
            self._rank(stream)

    def _refuse(self, stream: StreamState, code: int, *, drawn: bool = True) -> None:
        """The application never gets this one; ``drawn``: by what the peer has just sent."""
        self.refused += 1
        self._fail(stream, Failure(SessionClosed, "never accepted", code))
        if drawn:
            self._draw_reset(stream.id, code)
        else:
            self.owe_reset(stream.id, code)

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None or stream.fin_in or not stream.opened:
            self._on_late_data(stream, stream_id, length, fin)
            return
        window = stream.receive
        left = window.left - length
        if left < window.mark and length:
            if left < 0:
                self._charge(_WASTED)
                text = f"the peer sent {length} bytes with a window of {window.left}"
                failure = Failure(FlowControlError, text, ErrorCode.FLOW_CONTROL_ERROR)
                self._reset(stream, failure)
                return
            window.left = left
            self.windows.reached(window, self._clock())
        else:
            window.left = left
        if not stream.answered:
            stream.answered = True
        elif not (length or fin):  # nor did it come with the SYN
            self._charge(_USELESS)
        if len(piece) != length:
            self._current, self._current_fin = stream, fin
            if len(piece):
                self.on_more(piece, False)
            return
        if length:
            if stream.deaf:
                self.consumed(stream, length)
            else:
                stream.push(piece)
        if fin:
            stream.fin_in = True
        if stream.readers or stream.poller is not None:
            self._tell(stream)
        if self._untyped or self.services:
            self._look_inside(stream)

    def _on_late_data(
        self, stream: StreamState | None, stream_id: int, length: int, fin: bool
    ) -> None:
        """DATA for a stream that is gone or never was, or behind its end."""
        if stream is None or not stream.opened:
            self._check_known(stream_id, "DATA")
            if fin and not length and self._late_ends:
                self._late_ends -= 1
            elif not length:
                self._charge(_USELESS)
            if length or not fin:
                self._draw_reset(stream_id, ErrorCode.STREAM_CLOSED)
        elif fin and not length:
            self._charge(_USELESS)
        else:
            self._charge(_WASTED)
            text = "the peer sent data after its FIN"
            self._reset(stream, Failure(StreamReset, text, ErrorCode.STREAM_CLOSED))

    def _tell(self, stream: StreamState) -> None:
        """Somebody may wait for what has just come; once is enough for a row of frames."""
        changed = self.changed
        if not changed or changed[-1] is not stream:
            changed.append(stream)

    def on_more(self, piece: memoryview, last: bool) -> None:
        stream = self._current
        if stream is None:
            return
        if stream.closed or stream.failure is not None:
            self._current = None
            if stream.failure is None:
                # Without it the peer would believe that its last frame was read.
                self._draw_reset(stream.id, ErrorCode.STREAM_CLOSED)
            return
        if stream.deaf:
            self.consumed(stream, len(piece))
        else:
            stream.push(piece)
        if last:
            self._current = None
            stream.fin_in = self._current_fin
        if stream.readers or stream.poller is not None:
            self._tell(stream)
        if self._untyped or self.services:
            self._look_inside(stream)

    @property
    def under_way(self) -> StreamState | None:
        """Whose DATA frame is under way, if its bytes are wanted.

        A reader may take them from the connection itself once there are none before them.
        """
        stream = self._current
        if stream is None or stream.deaf or stream.closed or stream.failure is not None:
            return None
        return stream

    def taken(self, stream: StreamState, count: int) -> bool:
        """A reader took ``count`` bytes of what is :meth:`under_way`; false if ``stream`` has
        ended meanwhile and they are nobody's.
        """
        last = self.codec.passed(count)
        if stream.closed or stream.failure is not None or stream.deaf:
            self.on_more(_NOTHING, last)
            if stream.deaf:
                self.consumed(stream, count)
            return False
        self.consumed(stream, count, lazy=True)
        if last:
            self._current = None
            stream.fin_in = self._current_fin
            if stream.fin_in and stream.readers:
                self._tell(stream)
        return True

    def give_back(self, stream: StreamState, holder: Holder) -> None:
        """What ``holder`` has was taken, and whoever took it is no more: it is what is read next.

        All or nothing is done, and twice is as good as once.
        """
        if stream.deaf or stream.closed or stream.failure is not None:
            holder.count = 0
        if not holder.count:
            return
        chunks: list[bytes | bytearray] = [bytes(holder.view[: holder.count])]
        if stream.chunks:
            chunks.append(stream.chunks[0][stream.skip :])
            chunks += stream.chunks[1:]
        # From here on with no call, behind which an exception from outside could strike.
        stream.chunks, stream.skip = chunks, 0
        stream.buffered += holder.count
        stream.receive.read -= holder.count
        holder.count = 0

    def _look_inside(self, stream: StreamState) -> None:
        """Bytes have come that may not be the application's: a type, or a heartbeat."""
        if stream in self._untyped:
            prefix = self._untyped[stream]
            self._pull(stream, prefix, 4 - len(prefix))
            if len(prefix) == 4:
                del self._untyped[stream]
                stream.stream_type = int.from_bytes(prefix, "big")
                self._admit(stream)
            elif stream.fin_in:
                self._refuse(stream, ErrorCode.PROTOCOL_ERROR)
        if stream not in self.services:
            return
        beat = self.services[stream]
        while stream.buffered:
            self._pull(stream, beat, 4 - len(beat))
            if len(beat) < 4:
                break
            if stream is not self._pulse:
                self._say(stream, bytes(beat))
            elif bytes(beat) == self._question:
                self.beat_answered = True
            beat.clear()
        if stream.fin_in:
            self._forget(stream)

    def _pull(self, stream: StreamState, into: bytearray, count: int) -> None:
        """Move up to ``count`` bytes, which the application is not going to read."""
        if count and stream.buffered:
            data = stream.take(count)
            into += data
            self.consumed(stream, len(data))

    def _say(self, stream: StreamState, data: bytes) -> None:
        """Owe bytes on a stream of the session's own."""
        owed = self._says.get(stream, b"") + data
        if len(owed) > _MAX_ECHO:
            raise EnhanceYourCalm("the peer sends heartbeats and takes no answer")
        self._says[stream] = owed
        self.urgent = True

    def _check_known(self, stream_id: int, name: str) -> None:
        """Where ids are strict, a frame for a stream that never was ends the session."""
        if self.codec.strict_ids:
            mine = stream_id & 1 == self._parity
            if stream_id >= self.next_id if mine else stream_id > self.last_peer_id:
                raise ProtocolError(f"{name} for stream {stream_id}, which was never opened")

    def on_rst(self, stream_id: int, code: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id == self._probe_id:
                self.beat_answered = True
            else:
                self._check_known(stream_id, "RST")
            self._late_resets += 1
            if self._late_resets > self.frames_sent:  # each answers a frame, or comes uncalled
                self._charge(_USELESS)
            return
        if not stream.local and stream.send.left >= self.config.window:
            self._charge(_WASTED)
        self.broken_off += 1
        reason = ErrorCode.of(code)
        refused = reason in (ErrorCode.STREAM_REFUSED, ErrorCode.ACCEPT_QUEUE_FULL)
        if refused and stream.local and not stream.answered:
            text = f"the peer refused stream {stream_id}: {reason.name}"
            self._fail(stream, Failure(StreamRefused, text, code, retryable=True))
        else:
            text = f"the peer reset stream {stream_id}: {reason.name}"
            self._fail(stream, Failure(StreamReset, text, code))

    def on_window(self, stream_id: int, increment: int) -> None:
        if not increment:
            self.ignored_frames += 1
            self._charge(_USELESS)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id, "WNDINC")
            if increment <= self._late_credit:
                self._late_credit -= increment
            else:
                self._charge(_USELESS)
            return
        stream.answered = True
        if stream in self._says:
            self.urgent = True
        send = stream.send
        if not send.grant(increment):
            self._charge(_WASTED)
            text = f"the peer raised the window of stream {stream_id} over 2**31 - 1"
            self._reset(stream, Failure(FlowControlError, text, ErrorCode.FLOW_CONTROL_ERROR))
            return
        if send.left > send.most:
            # Nothing that was sent has been read: the window itself grows, which takes few frames.
            send.most = send.left
            self._charge(_USELESS)
        if stream.write is not None:
            self.schedule.add(stream, stream.priority)
        if stream.writers or stream.poller is not None:
            self.changed.append(stream)

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        # A peer that goes away for a reason says a second GOAWAY, with NO_ERROR, as it closes.
        # Version 1 tells of its GOAWAY before the debug bytes have come, and then again.
        before = self.goaway
        better = before is not None and not before[1] and (code or not before[2])
        if before is None or better or before == (last_id, code, b""):
            self.goaway = (last_id, code, debug)
        self._charge(_FAREWELL)
        if last_id >= self._gone_above:
            return
        self._gone_above = last_id
        failure = self._gone_away()
        for stream in list(self.streams.values()):
            # Go tells the id whose SYN came last, others the highest. Ours leave in the order of
            # their ids, so both mean the same, but an answer is better proof than either.
            if stream.local and stream.id > last_id and not stream.answered:
                self._fail(stream, failure)

    def on_unknown(self, frame_type: int) -> None:
        self.ignored_frames += 1
        self._charge(_USELESS)

    def _gone_away(self) -> Failure:
        assert self.goaway is not None
        _, code, debug = self.goaway
        text = f"the peer is going away ({ErrorCode.of(code).name}"
        text += f": {debug.decode('utf-8', 'replace')})" if debug else ")"
        return Failure(RemoteGoneAway, text, ErrorCode.REMOTE_GONE_AWAY, retryable=True)

    # What the application does.

    def open(self, priority: int, stream_type: int, fin: bool) -> StreamState:
        """A new stream; nothing of it is sent yet."""
        if self.going_away:
            raise SessionClosed("this side is going away: it opens no new stream", retryable=True)
        if self.goaway is not None:
            raise self._gone_away().exception()
        if self.next_id > _LAST_ID:
            raise StreamsExhausted("every stream id of this session is used up", retryable=True)
        stream = self._open(priority, stream_type)
        self.opened += 1
        self._rank(stream)
        if fin:
            self.end(stream, urgent=False)
        return stream

    def _open(self, priority: int, stream_type: int) -> StreamState:
        stream = StreamState(self.next_id, True, self.config.window, priority, stream_type)
        if self.codec.types_in_data:
            stream.send.left -= 4
        self.windows.opened()
        # With no call in between, behind which an exception from outside could strike.
        self.next_id += 2
        self.streams[stream.id] = stream
        self.opening[stream] = None
        return stream

    def beat(self) -> bool:
        """Owe a question that any living peer answers; false if it would not answer one.

        Version 2: an empty DATA frame on an id that is never opened draws RST STREAM_CLOSED from
        every peer. Version 1: a stream of the heartbeat's type, whose bytes come back.
        """
        if not self.codec.asks_by_stream:
            self._probing = self.urgent = True
            return True
        if self._pulse is None:
            assert self.codec.heartbeat_type is not None
            self._pulse = self._open(MAX_PRIORITY, self.codec.heartbeat_type)
            self.services[self._pulse] = bytearray()
        elif self._pulse.failure is not None or self._pulse.fin_in:
            return False  # it refused, and may not be asked twice
        number = int.from_bytes(self._question, "big") + 1
        self._question = (number & 0x7FFFFFFF).to_bytes(4, "big")
        self._says[self._pulse] = self._question
        self.urgent = True
        return True

    @property
    def buffered(self) -> int:
        """Bytes received and not read."""
        return sum([stream.buffered for stream in self.streams.values()])

    @property
    def stalled(self) -> int:
        """How many streams have something to send and no window."""
        return sum([s.write is not None and s.send.left <= 0 for s in self.streams.values()])

    @property
    def alive(self) -> int:
        """How many streams are the application's, or on their way to it."""
        return len(self.streams) - len(self.services)

    @property
    def in_use(self) -> int:
        """The same, but for those that were closed after the end of the session."""
        return sum([not stream.closed for stream in self.streams.values()]) - len(self.services)

    def accept(self, acceptor: int = 0) -> StreamState | None:
        """The next stream the peer opened, if one waits; for the thread ``acceptor``."""
        if not self.backlog:
            return None
        number, stream = next(iter(self.backlog.items()))
        if number > self.last_accepted:
            self.last_accepted = number
        # From here on with no call and no branch, where an exception from outside could strike.
        del self.backlog[number]
        self.accepted += 1
        stream.accepted, stream.acceptor = True, acceptor
        return stream

    def prioritise(self, stream: StreamState, priority: int) -> None:
        """Give ``stream`` another place among those that have something to send."""
        self._unrank(stream)
        stream.priority = priority
        if not stream.fin_out and stream.failure is None:
            self._rank(stream)
        if stream.write is not None and stream.send.left > 0:
            # Scheduled, unless an exception from outside has just taken it out in here.
            self.schedule.add(stream, priority)

    def _rank(self, stream: StreamState) -> None:
        levels, priority = self.levels, stream.priority
        count = levels.get(priority, 0)
        mixed = self.mixed if count else len(levels) > 0
        # With no call in between, behind which an exception from outside could strike.
        stream.ranked = True
        levels[priority] = count + 1
        self.mixed = mixed

    def _unrank(self, stream: StreamState) -> None:
        """It sends nothing more, or not at this priority."""
        if not stream.ranked:
            return
        levels, priority = self.levels, stream.priority
        count = levels[priority]
        if count > 1:
            stream.ranked = False
            levels[priority] = count - 1
        else:
            mixed = len(levels) > 2
            # As above.
            stream.ranked = False
            del levels[priority]
            self.mixed = mixed

    def unaccept(self, stream: StreamState, acceptor: int) -> None:
        """``acceptor``, if it has accepted ``stream``, never got it: it is the next one again."""
        if not stream.accepted or stream.acceptor != acceptor:
            return
        if not stream.closed and self.streams.get(stream.id) is stream:
            self.backlog[stream.id] = stream
            self.backlog.move_to_end(stream.id, last=False)
            stream.accepted = False
            self.accepted -= 1
            self.arrived = True
        else:
            self.close(stream)  # it has ended meanwhile: nobody else lets go of it

    def announce(self, stream: StreamState) -> None:
        """The opener is going to wait for the peer: the SYN must not wait for bytes to carry."""
        if not stream.opened:
            self._syn_due = self.urgent = True

    def consumed(self, stream: StreamState, count: int, lazy: bool = False) -> None:
        """The application has read ``count`` bytes (or they were dropped in its name).

        ``lazy``: whoever reads the connection makes :attr:`urgent` what is in :attr:`grants` when
        nothing more comes for now, and that is soon enough for a peer with window left.
        """
        window = stream.receive
        if window.consume(count) and not stream.fin_in and stream.failure is None:
            self.grants[stream] = None
            self.urgent |= not lazy or window.pressing

    def end(self, stream: StreamState, urgent: bool) -> None:
        """No more bytes to send: owe FIN. Bytes not yet handed over are given up."""
        if stream.fin_out or stream.failure is not None:
            return
        self._unrank(stream)
        stream.fin_out = True
        self.ending[stream] = None
        if urgent:
            self.urgent = True
        if stream.write is not None:
            self.schedule.discard(stream)  # first: one that is scheduled has something to write
            stream.write = None

    def hush(self, stream: StreamState) -> None:
        """SHUT_RD: what was received and not read, and what still comes, is dropped."""
        stream.deaf = True
        left = stream.buffered
        stream.clear()
        if left:
            self.consumed(stream, left)

    def close(self, stream: StreamState, lazy: bool = False) -> None:
        """The application lets go: FIN, or RST if it leaves bytes unread.

        ``lazy``: the FIN may wait for a frame to ride with, though the peer may wait for it.
        """
        if stream.closed:
            return
        if stream.failure is None:
            if stream.buffered:
                text = "closed with bytes unread"
                self._reset(stream, Failure(StreamReset, text, ErrorCode.STREAM_CANCELLED))
            else:
                self.end(stream, stream.wrote and not lazy)
                if not stream.fin_in:
                    self._late_ends += 1
                self._forget(stream)
        # Last, with no call in between: what an exception from outside cuts short is repeated.
        if stream.accepted:
            self.peer_streams -= 1
            self._owed += stream in self.ending or stream.id in self.resets
        stream.closed = True

    def reset(self, stream: StreamState, code: int) -> None:
        """End both directions at once, and tell the peer."""
        if stream.failure is not None or stream.closed:
            return
        text = f"this side reset the stream: {ErrorCode.of(code).name}"
        unseen = stream.local and not stream.opened
        self._reset(stream, Failure(StreamReset, text, code, retryable=unseen))

    def refuse_backlog(self) -> None:
        """Reset what the application never accepted, so that its opener may try elsewhere."""
        while self.backlog:
            _, stream = self.backlog.popitem()
            self._refuse(stream, ErrorCode.STREAM_REFUSED, drawn=False)
        for stream in list(self._untyped):
            self._refuse(stream, ErrorCode.STREAM_REFUSED, drawn=False)

    def go_away(self, code: int, debug: bytes, *, final: bool) -> None:
        """Owe a GOAWAY; new streams of the peer are refused from here on."""
        self.going_away = True
        # A stream that waits for accept() may still be handed out, even after the end.
        last = max(self.last_accepted, *self.backlog, 0)
        if not final:  # so may a heartbeat be answered, without which Go ends the session
            last = max(last, *[stream.id for stream in self.services if not stream.local], 0)
        self._goaway = self.codec.goaway(last, code, debug, final=final)
        self.urgent = True

    # Frames to send.

    def owing(self) -> bool:
        """Whether any control frame is owed, urgent or not, but for updates that may wait."""
        return bool(
            self.resets
            or (self.grants and self.urgent)
            or self.ending
            or self.opening
            or self._probing
            or self._goaway is not None
        )

    def control_frames(self, opening: bool) -> bytes:
        """Everything owed but DATA, as bytes to send; it counts as sent.

        ``opening`` adds the SYN of streams that have not sent anything; without it they are
        left to ride with their first bytes.
        """
        codec = self.codec
        frames = bytearray()
        if self._says or self._probing:
            frames = self._beats(behind=True)
        count = 0
        start = self.framed - len(frames)
        if self.grants:
            now, alone = self._clock(), self.alive <= 1
            for stream in self.grants:
                if stream.closed:
                    increment = stream.receive.grant()
                else:
                    increment = self.windows.update(stream.receive, now, alone=alone)
                if increment:
                    frames += codec.window(stream.id, increment)
                    count += 1
            self.grants.clear()
        if opening or self._syn_due:
            self._syn_due = False
            while self.opening:
                frames += self._syn(next(iter(self.opening)), 0, start + len(frames))
        if self.ending:
            ending, self.ending = self.ending, {}
            for stream in ending:
                if stream.opened:
                    frames += codec.data(stream.id, 0, True)
                    count += 1
                else:
                    frames += self._syn(stream, 0, start + len(frames), fin=True)
        if self.resets:  # behind the FIN of a stream that has just been closed
            for stream_id, code in self.resets.items():
                frames += codec.rst(stream_id, code)
            count += len(self.resets)
            self.resets.clear()
        if self._goaway is not None:
            frames += self._goaway
            count += 1
            self._goaway = None
        self.urgent = False
        self._owed = 0
        self.frames_sent += count
        self.framed = start + len(frames)
        return bytes(frames)

    @property
    def pressing(self) -> bool:
        """Whether a heartbeat is owed that may go before whatever waits to be sent."""
        return self._probing or (
            bool(self._says)
            and any(
                self._precedes(stream) and stream.send.left >= len(data)
                for stream, data in self._says.items()
            )
        )

    def heartbeats(self) -> bytes:
        """The heartbeats owed, which may go before frames made earlier.

        Nothing else may: FIN and RST stand behind their stream's data, a SYN behind those of
        lower ids. The heartbeat stream that this side opened is one of those until the peer has
        spoken on it, since its SYN may still wait itself.
        """
        return bytes(self._beats(behind=False))

    def _precedes(self, stream: StreamState) -> bool:
        return stream.answered or not stream.local

    def _beats(self, *, behind: bool) -> bytearray:
        """What is owed of heartbeats, and can stand ``behind`` what was made before or must not."""
        frames = bytearray()
        if self._says:
            for stream, data in list(self._says.items()):
                if stream.send.left >= len(data) and (behind or self._precedes(stream)):
                    del self._says[stream]
                    frames += self.data_header(stream, len(data)) + data
        if self._probing:
            self._probing = False
            frames += (probe := self.codec.data(self._probe_id, 0))
            self.frames_sent += 1
            self.framed += len(probe)
        return frames

    def data_header(self, stream: StreamState, length: int) -> bytes:
        """What goes before ``length`` bytes of ``stream``; its SYN, if that is still owed.

        The bytes count as sent.
        """
        stream.send.left -= length
        if stream.opened:
            self.frames_sent += 1
            self.framed += length + 8
            return self.codec.data(stream.id, length)
        header = self._syn(stream, length, self.framed)
        self.framed += len(header) + length
        return header

    def _syn(self, stream: StreamState, length: int, start: int, *, fin: bool = False) -> bytes:
        """What opens ``stream``, to go at ``start`` of all the session's bytes."""
        before = b""
        if next(iter(self.opening)) is not stream:
            # In the order of their ids: version 1 demands it, and the id in a GOAWAY would
            # otherwise not tell which streams the peer has seen.
            for earlier in [s for s in self.opening if s.id < stream.id]:
                alone = earlier in self.ending
                self.ending.pop(earlier, None)
                before += self._syn_alone(earlier, 0, start + len(before), fin=alone)
        if not fin and not length and stream in self.ending:
            del self.ending[stream]
            fin = True
        return before + self._syn_alone(stream, length, start + len(before), fin=fin)

    def _syn_alone(self, stream: StreamState, length: int, start: int, fin: bool) -> bytes:
        if stream in self.opening:
            # With no call in between, behind which an exception from outside could strike.
            del self.opening[stream]
        stream.opened = True
        header = self.codec.syn(stream.id, length, fin, stream.priority, stream.stream_type)
        stream.syn_end = start + len(header)
        self.frames_sent += 1
        if not self.codec.syn_is_data and (length or fin):
            stream.syn_end -= 8  # of the DATA frame that follows
            self.frames_sent += 1
        return header

    def unseen(self, stream: StreamState, sent: int | None) -> bool:
        """Whether the peer cannot have seen ``stream``, of all that was sent at the end.

        ``sent``: how many bytes that is, ``None`` where it is not known.
        """
        if not stream.local or not stream.opened:
            return stream.local
        return sent is not None and stream.syn_end > sent

    def give_up_opening(self) -> None:
        """At the end: what the peer does not know of, it is not told of any more."""
        self._syn_due = False
        self.opening.clear()
        self.ending = {stream: None for stream in self.ending if stream.opened}

    # The end of a stream.

    def owe_reset(self, stream_id: int, code: int) -> None:
        """Owe RST for ``stream_id``; the first code given for it stands."""
        self.resets.setdefault(stream_id, code)
        self.urgent = True

    def _draw_reset(self, stream_id: int, code: int) -> None:
        """The same, for something that the peer has just sent."""
        if stream_id not in self.resets:
            self._charge(_USELESS)
            self._owed += 1
            self._check_owed()
        self.owe_reset(stream_id, code)

    def _check_owed(self) -> None:
        if self._owed > _MAX_OWED:
            raise EnhanceYourCalm(f"the peer makes this side owe {_MAX_OWED} frames and takes none")

    def _reset(self, stream: StreamState, failure: Failure) -> None:
        """Fail ``stream`` and tell the peer, unless the peer never heard of it."""
        self.broken_off += 1
        if stream.opened:
            self.owe_reset(stream.id, failure.code)
            self._late_ends += not stream.fin_in
        self._fail(stream, failure)

    def _fail(self, stream: StreamState, failure: Failure) -> None:
        """``stream`` is over: whatever it held or owed is gone."""
        stream.clear()
        self.schedule.discard(stream)
        stream.write = None
        self._unrank(stream)
        self.opening.pop(stream, None)
        self.ending.pop(stream, None)
        self.grants.pop(stream, None)
        self._forget(stream)
        if stream.readers or stream.writers or stream.poller is not None:
            self.changed.append(stream)
        stream.failure = failure  # last: what an exception from outside cuts short can be repeated

    def _forget(self, stream: StreamState) -> None:
        number, send = stream.id, stream.send
        if self.streams.get(number) is not stream:
            return
        del self.streams[number]
        if not (stream.local or stream.accepted or stream in self.services):
            self.peer_streams -= 1
        self._late_credit += send.most - send.left
        self.windows.closed(stream.receive)
        if self.grants and (stream.receive.left or stream.fin_in or stream.failure is not None):
            self.grants.pop(stream, None)
        # else the peer could not even send what would tell it that nobody reads any more
        if self.services or self._untyped:
            self.services.pop(stream, None)
            self._says.pop(stream, None)
            self._untyped.pop(stream, None)
        if self.backlog and self.backlog.get(number) is stream:
            del self.backlog[number]
            self.arrived = True  # or rather left: who polls for it must look again
