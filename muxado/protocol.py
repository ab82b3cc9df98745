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
from typing import Any, NamedTuple

from muxado import wire
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
from muxado.flow import ReceiveWindow, SendWindow
from muxado.schedule import Schedule

__all__ = ["Failure", "Protocol", "SessionEnd", "StreamState"]

#: Received pieces shorter than this are joined to the piece before them, so that a flood of
#: tiny frames costs the memory of its bytes and not of an object each.
_SMALL = 4096

#: Resets owed and not yet taken by the connection, over which the peer is told to calm down.
_MAX_RESETS = 20_000

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


class StreamState:
    """One stream: what was received and not read, both windows, how far it is closed."""

    __slots__ = (
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
        "priority",
        "readers",
        "receive",
        "send",
        "skip",
        "stream_type",
        "write",
        "writers",
        "wrote",
    )

    def __init__(
        self, stream_id: int, *, local: bool, window: int, priority: int, stream_type: int
    ) -> None:
        self.id = stream_id
        #: Whether this side opened it.
        self.local = local
        self.priority = priority
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
        #: The peer has sent something for it.
        self.answered = False
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
        #: Who waits for window, or for a turn to write.
        self.writers: list[Any] | None = None
        #: The descriptor that polls for this stream, once one was asked for.
        self.poller: Any = None
        #: The bytes that wait to be sent.
        self.write: Any = None

    def push(self, piece: memoryview) -> None:
        """Keep ``piece``, which has just arrived."""
        size = len(piece)
        self.buffered += size
        chunks = self.chunks
        if size < _SMALL and chunks:
            last = chunks[-1]
            if len(last) < _SMALL:
                if type(last) is bytes:
                    chunks[-1] = last = bytearray(last)
                last += piece
                return
        chunks.append(bytes(piece))

    def take(self, count: int) -> bytes:
        """Remove and return up to ``count`` bytes; there must be some."""
        chunks, skip = self.chunks, self.skip
        first = chunks[0]
        have = len(first) - skip
        if count < have:
            self.skip = skip + count
            self.buffered -= count
            return bytes(memoryview(first)[skip : skip + count])
        if count == have or len(chunks) == 1:
            del chunks[0]
            self.skip = 0
            self.buffered -= have
            if skip:
                return bytes(memoryview(first)[skip:])
            return first if type(first) is bytes else bytes(first)
        data = self.peek(count)
        self.drop(len(data))
        return data

    def take_into(self, into: memoryview) -> int:
        """Move bytes into ``into``, as many as fit; returns how many."""
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
        self.drop(done)
        return done

    def peek(self, count: int) -> bytes:
        """Up to ``count`` bytes, which stay."""
        parts: list[memoryview] = []
        for index, chunk in enumerate(self.chunks):
            start = 0 if index else self.skip
            part = memoryview(chunk)[start : start + count]
            parts.append(part)
            count -= len(part)
            if not count:
                break
        return b"".join(parts)

    def drop(self, count: int) -> None:
        """Remove ``count`` bytes; there must be as many."""
        self.buffered -= count
        count += self.skip
        gone = 0
        for chunk in self.chunks:
            if count < len(chunk):
                break
            count -= len(chunk)
            gone += 1
        del self.chunks[:gone]
        self.skip = count

    def clear(self) -> None:
        """Forget what was received."""
        self.chunks.clear()
        self.skip = self.buffered = 0


class Protocol:
    """All streams of a session and what the session owes its peer.

    The methods that begin with ``on_`` are the codec's ``Handler``. Everything is guarded by the
    one lock of the session that owns it.
    """

    def __init__(self, config: Config, *, client: bool) -> None:
        self.config = config
        self.codec = wire.codec(config, self)
        #: Whether a stream has a type on this session.
        self.carries_types = self.codec.carries_types or config.typed
        self.client = client
        self.streams: dict[int, StreamState] = {}
        self._next_id = self.codec.first_id[0 if client else 1]
        self._parity = self._next_id & 1
        #: Streams the peer opened that wait for the application, oldest first.
        self.backlog: collections.OrderedDict[int, StreamState] = collections.OrderedDict()
        #: How many of `streams` the peer opened.
        self.peer_streams = 0
        #: The highest id of the peer's that reached the application.
        self.last_accepted = 0
        self.last_peer_id = 0
        #: Streams whose SYN is not sent yet, in the order of their ids.
        self.opening: dict[StreamState, None] = {}
        #: Streams whose FIN is not sent yet.
        self.ending: dict[StreamState, None] = {}
        #: Streams with an update of their receive window due.
        self.grants: dict[StreamState, None] = {}
        #: Stream ids to reset, with the code.
        self.resets: dict[int, int] = {}
        self.schedule: Schedule[StreamState] = Schedule()
        #: Something owed must go at once; what is only in `opening` and `ending` may wait for
        #: a frame to ride along with.
        self.urgent = False
        self._syn_due = False  # SYNs must not wait for their first bytes any longer
        #: This side takes no new stream.
        self.going_away = False
        self._goaway: bytes | None = None
        #: What the peer's GOAWAY said, if one came: last stream id, code, debug bytes.
        self.goaway: tuple[int, int, bytes] | None = None
        #: Streams somebody may wait for, changed since the engine last looked.
        self.changed: list[StreamState] = []
        #: The backlog grew.
        self.arrived = False
        self._current: StreamState | None = None  # whose DATA frame is under way
        self._current_fin = False
        #: Counters since the start.
        self.ignored_frames = self.opened = self.accepted = 0

    # What the peer sends: the codec's Handler.

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the connection; what they change shows in the attributes.

        Raises a ``SessionClosed`` of the kind that fits when the peer broke a rule.
        """
        self.codec.feed(data)
        if len(self.resets) > _MAX_RESETS:
            raise EnhanceYourCalm(f"the peer provoked {_MAX_RESETS} resets and took none")

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None:
        if not stream_id or stream_id & 1 == self._parity:
            raise ProtocolError(f"the peer opened stream {stream_id}, an id of the wrong parity")
        if stream_id in self.streams:
            raise ProtocolError(f"SYN for stream {stream_id}, which is open")
        if self.codec.ordered_ids and stream_id <= self.last_peer_id:
            raise ProtocolError(f"SYN for stream {stream_id} after {self.last_peer_id}")
        self.last_peer_id = max(self.last_peer_id, stream_id)
        config = self.config
        if self.going_away or self.peer_streams >= config.max_streams:
            self.owe_reset(stream_id, ErrorCode.STREAM_REFUSED)
            return
        if len(self.backlog) >= config.accept_backlog:
            self.owe_reset(stream_id, ErrorCode.ACCEPT_QUEUE_FULL)
            return
        stream = StreamState(
            stream_id,
            local=False,
            window=config.window,
            priority=priority,
            stream_type=stream_type,
        )
        self.streams[stream_id] = self.backlog[stream_id] = stream
        self.peer_streams += 1
        self.arrived = True

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        stream = self.streams.get(stream_id)
        self._current = None
        if stream is None:
            if length or not fin:
                self.owe_reset(stream_id, ErrorCode.STREAM_CLOSED)
            return
        if stream.fin_in:
            if length or not fin:
                self._reset(
                    stream,
                    Failure(
                        StreamReset, "the peer sent data after its FIN", ErrorCode.STREAM_CLOSED
                    ),
                )
            return
        window = stream.receive
        if length > window.left:
            self._reset(
                stream,
                Failure(
                    FlowControlError,
                    f"the peer sent {length} bytes with a window of {window.left}",
                    ErrorCode.FLOW_CONTROL_ERROR,
                ),
            )
            return
        window.left -= length
        stream.answered = True
        if len(piece) == length:
            if length:
                if stream.deaf:
                    self.consumed(stream, length)
                else:
                    stream.push(piece)
            if fin:
                stream.fin_in = True
        else:
            self._current, self._current_fin = stream, fin
            if len(piece):
                self.on_more(piece, False)
            return
        if stream.readers or stream.poller is not None:
            self.changed.append(stream)

    def on_more(self, piece: memoryview, last: bool) -> None:
        stream = self._current
        if stream is None:
            return
        if stream.closed or stream.failure is not None:
            self._current = None
            if stream.failure is None:
                # Without it the peer would believe that its last frame was read.
                self.owe_reset(stream.id, ErrorCode.STREAM_CLOSED)
            return
        if stream.deaf:
            self.consumed(stream, len(piece))
        else:
            stream.push(piece)
        if last:
            self._current = None
            stream.fin_in = self._current_fin
        if stream.readers or stream.poller is not None:
            self.changed.append(stream)

    def on_rst(self, stream_id: int, code: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        reason = ErrorCode.of(code)
        if stream.local and reason in (ErrorCode.STREAM_REFUSED, ErrorCode.ACCEPT_QUEUE_FULL):
            text = f"the peer refused stream {stream_id}: {reason.name}"
            self._fail(stream, Failure(StreamRefused, text, code, retryable=True))
        else:
            text = f"the peer reset stream {stream_id}: {reason.name}"
            self._fail(stream, Failure(StreamReset, text, code))

    def on_window(self, stream_id: int, increment: int) -> None:
        if not increment:
            self.ignored_frames += 1
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        stream.answered = True
        if not stream.send.grant(increment):
            text = f"the peer raised the window of stream {stream_id} over 2**31 - 1"
            self._reset(stream, Failure(FlowControlError, text, ErrorCode.FLOW_CONTROL_ERROR))
            return
        if stream.write is not None:
            self.schedule.add(stream, stream.priority)
        if stream.writers or stream.poller is not None:
            self.changed.append(stream)

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        # A peer that goes away for a reason says a second GOAWAY, with NO_ERROR, as it closes.
        if self.goaway is None or not self.goaway[1]:
            self.goaway = (last_id, code, debug)
        failure = self._gone_away()
        for stream in list(self.streams.values()):
            # Go tells the id whose SYN came last, others the highest. Ours leave in the order of
            # their ids, so both mean the same, but an answer is better proof than either.
            if stream.local and stream.id > last_id and not stream.answered:
                self._fail(stream, failure)

    def on_unknown(self, frame_type: int) -> None:
        self.ignored_frames += 1

    def _gone_away(self) -> Failure:
        assert self.goaway is not None
        _, code, debug = self.goaway
        text = f"the peer is going away ({ErrorCode.of(code).name}"
        text += f": {debug.decode('utf-8', 'replace')})" if debug else ")"
        return Failure(RemoteGoneAway, text, ErrorCode.REMOTE_GONE_AWAY, retryable=True)

    # What the application does.

    def open(self, *, priority: int, stream_type: int, fin: bool) -> StreamState:
        """A new stream; nothing of it is sent yet."""
        if self.going_away:
            raise SessionClosed("this side is going away: it opens no new stream", retryable=True)
        if self.goaway is not None:
            raise self._gone_away().exception()
        if self._next_id > _LAST_ID:
            raise StreamsExhausted("every stream id of this session is used up", retryable=True)
        stream = StreamState(
            self._next_id,
            local=True,
            window=self.config.window,
            priority=priority,
            stream_type=stream_type,
        )
        self._next_id += 2
        self.opened += 1
        self.streams[stream.id] = stream
        self.opening[stream] = None
        if fin:
            self.end(stream, urgent=False)
        return stream

    def accept(self) -> StreamState | None:
        """The next stream the peer opened, if one waits."""
        if not self.backlog:
            return None
        _, stream = self.backlog.popitem(last=False)
        self.accepted += 1
        self.last_accepted = max(self.last_accepted, stream.id)
        return stream

    def announce(self, stream: StreamState) -> None:
        """The opener is going to wait for the peer: the SYN must not wait for bytes to carry."""
        if not stream.opened:
            self._syn_due = self.urgent = True

    def consumed(self, stream: StreamState, count: int) -> None:
        """The application has read ``count`` bytes (or they were dropped in its name)."""
        if stream.receive.consume(count) and not stream.fin_in and stream.failure is None:
            self.grants[stream] = None
            self.urgent = True

    def end(self, stream: StreamState, *, urgent: bool) -> None:
        """No more bytes to send: owe FIN. Bytes not yet handed over are given up."""
        if stream.fin_out or stream.failure is not None:
            return
        stream.fin_out = True
        self.schedule.discard(stream)
        stream.write = None
        self.ending[stream] = None
        self.urgent |= urgent

    def hush(self, stream: StreamState) -> None:
        """SHUT_RD: what was received and not read, and what still comes, is dropped."""
        stream.deaf = True
        left = stream.buffered
        stream.clear()
        if left:
            self.consumed(stream, left)

    def close(self, stream: StreamState) -> None:
        """The application lets go: FIN, or RST if it leaves bytes unread."""
        if stream.closed:
            return
        stream.closed = True
        if stream.failure is not None:
            return
        if stream.buffered:
            self._reset(
                stream,
                Failure(StreamReset, "closed with bytes unread", ErrorCode.STREAM_CANCELLED),
            )
        else:
            self.end(stream, urgent=stream.wrote)
            self._forget(stream)

    def reset(self, stream: StreamState, code: int) -> None:
        """End both directions at once, and tell the peer."""
        if stream.failure is not None or stream.closed:
            return
        name = ErrorCode.of(code).name
        self._reset(stream, Failure(StreamReset, f"this side reset the stream: {name}", code))

    def refuse_backlog(self) -> None:
        """Reset what the application never accepted, so that its opener may try elsewhere."""
        while self.backlog:
            _, stream = self.backlog.popitem()
            failure = Failure(SessionClosed, "never accepted", ErrorCode.STREAM_REFUSED)
            self._reset(stream, failure)

    def go_away(self, code: int, debug: bytes, *, final: bool) -> None:
        """Owe a GOAWAY; new streams of the peer are refused from here on."""
        self.going_away = True
        # Before the end, a stream that waits for accept() is still going to be served.
        last = self.last_accepted if final else max(self.last_accepted, *self.backlog, 0)
        self._goaway = self.codec.goaway(last, code, debug, final=final)
        self.urgent = True

    # Frames to send.

    def owing(self) -> bool:
        """Whether any control frame is owed, urgent or not."""
        return bool(
            self.resets or self.grants or self.ending or self.opening or self._goaway is not None
        )

    def control_frames(self, *, opening: bool) -> bytes:
        """Everything owed but DATA, as bytes to send; it counts as sent.

        ``opening`` adds the SYN of streams that have not sent anything; without it they are
        left to ride with their first bytes.
        """
        codec = self.codec
        frames: list[bytes] = []
        if self.grants:
            for stream in self.grants:
                increment = stream.receive.grant()
                if increment:
                    frames.append(codec.window(stream.id, increment))
            self.grants.clear()
        if opening or self._syn_due:
            self._syn_due = False
            while self.opening:
                frames.append(self._syn(next(iter(self.opening)), 0))
        if self.ending:
            ending, self.ending = self.ending, {}
            for stream in ending:
                if stream.opened:
                    frames.append(codec.data(stream.id, 0, fin=True))
                else:
                    frames.append(self._syn(stream, 0, fin=True))
        if self.resets:  # behind the FIN of a stream that has just been closed
            frames += [codec.rst(stream_id, code) for stream_id, code in self.resets.items()]
            self.resets.clear()
        if self._goaway is not None:
            frames.append(self._goaway)
            self._goaway = None
        self.urgent = False
        return b"".join(frames)

    def data_header(self, stream: StreamState, length: int) -> bytes:
        """What goes before ``length`` bytes of ``stream``; its SYN, if that is still owed.

        The bytes count as sent.
        """
        stream.send.left -= length
        if stream.opened:
            return self.codec.data(stream.id, length)
        return self._syn(stream, length)

    def _syn(self, stream: StreamState, length: int, *, fin: bool = False) -> bytes:
        before = b""
        if next(iter(self.opening)) is not stream:
            # In the order of their ids: version 1 demands it, and the id in a GOAWAY would
            # otherwise not tell which streams the peer has seen.
            earlier = [s for s in self.opening if s.id < stream.id]
            before = b"".join([self._syn_alone(s) for s in earlier])
        self.opening.pop(stream, None)
        stream.opened = True
        if not fin and not length and stream in self.ending:
            del self.ending[stream]
            fin = True
        return before + self.codec.syn(
            stream.id,
            length,
            fin=fin,
            priority=stream.priority,
            stream_type=stream.stream_type,
        )

    def _syn_alone(self, stream: StreamState) -> bytes:
        del self.opening[stream]
        stream.opened = True
        fin = stream in self.ending
        self.ending.pop(stream, None)
        return self.codec.syn(
            stream.id, 0, fin=fin, priority=stream.priority, stream_type=stream.stream_type
        )

    # The end of a stream.

    def owe_reset(self, stream_id: int, code: int) -> None:
        """Owe RST for ``stream_id``; the first code given for it stands."""
        self.resets.setdefault(stream_id, code)
        self.urgent = True

    def _reset(self, stream: StreamState, failure: Failure) -> None:
        """Fail ``stream`` and tell the peer, unless the peer never heard of it."""
        opened = stream.opened
        self._fail(stream, failure)
        if opened:
            self.owe_reset(stream.id, failure.code)

    def _fail(self, stream: StreamState, failure: Failure) -> None:
        """``stream`` is over: whatever it held or owed is gone."""
        stream.failure = failure
        stream.clear()
        stream.write = None
        self.schedule.discard(stream)
        self.opening.pop(stream, None)
        self.ending.pop(stream, None)
        self.grants.pop(stream, None)
        self._forget(stream)
        if stream.readers or stream.writers or stream.poller is not None:
            self.changed.append(stream)

    def _forget(self, stream: StreamState) -> None:
        if self.streams.get(stream.id) is not stream:
            return
        del self.streams[stream.id]
        self.grants.pop(stream, None)
        if not stream.local:
            self.peer_streams -= 1
            self.backlog.pop(stream.id, None)
