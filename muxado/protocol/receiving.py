"""What the peer sends: each frame judged by the rules, and what it changes.

==========================  ========================================================================
The peer sends              The application sees
==========================  ========================================================================
SYN                         a stream to accept; RST ACCEPT_QUEUE_FULL or STREAM_REFUSED is sent
                            when there is no room
DATA                        bytes to read
DATA beyond the window      FlowControlError on that stream, which is reset
FIN                         end of file, after the last byte
RST                         StreamReset or StreamRefused, after the last byte
WNDINC                      room to send
GOAWAY                      RemoteGoneAway on streams that the peer has not taken; others go on
==========================  ========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from muxado.config import MAX_WINDOW
from muxado.errors import (
    EnhanceYourCalm,
    ErrorCode,
    FlowControlError,
    ProtocolError,
    RemoteGoneAway,
    StreamRefused,
    StreamReset,
)
from muxado.protocol.flow import ReceiveWindow, SendWindow
from muxado.protocol.limits import GOAWAY_COST, USELESS_COST, WASTED_STREAM_COST
from muxado.protocol.streams import Failure, StreamState

if TYPE_CHECKING:
    from muxado.protocol.protocol import Protocol

__all__ = ["Receiver"]

_NOTHING = memoryview(b"")

#: How many resets that the peer has provoked, and FINs of streams that it opened, may wait to be
#: sent. With more the session ends with ENHANCE_YOUR_CALM.
_MAX_DRAWN = 20_000


class Receiver:
    """The codec's ``Handler``: it applies the peer's frames to the state in a ``Protocol``."""

    # Each frame asks for these, which are found faster in slots.
    __slots__ = ("__dict__", "_changed", "_protocol", "_streams", "current")

    def __init__(self, protocol: Protocol, clock: Callable[[], float], *, client: bool) -> None:
        self._protocol = protocol
        self._clock = clock
        # Also attributes of the protocol, but asked for with every frame.
        self._streams = protocol.streams
        self._changed = protocol.changed
        #: The stream whose DATA frame is under way, and whether that frame ends it.
        self.current: StreamState | None = None
        self._current_fin = False
        self._last_peer_id = 0 if client else 1  # the first that a peer may use is higher by 2
        self._gone_above = 2**31  # streams of ours above it are lost, as the peer's GOAWAY said

    # Streams that the peer opens.

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None:
        protocol, codec = self._protocol, self._protocol.codec
        if not stream_id or self._is_ours(stream_id):
            raise ProtocolError(f"the peer opened stream {stream_id}, an id of the wrong parity")
        if stream_id in self._streams:
            raise ProtocolError(f"SYN for stream {stream_id}, which is open")
        if stream_id > self._last_peer_id:
            self._last_peer_id = stream_id
        elif codec.strict_ids:
            raise ProtocolError(f"SYN for stream {stream_id} after {self._last_peer_id}")
        self._check_drawn()
        if (protocol.going_away or protocol.peer_streams >= protocol.config.max_streams) and (
            not codec.carries_types or stream_type != codec.heartbeat_type
        ):
            protocol.refused += 1
            self._draw_reset(stream_id, ErrorCode.STREAM_REFUSED)
            return
        size = protocol.config.window
        send, receive = SendWindow(size), ReceiveWindow(size)
        stream = StreamState(stream_id, False, priority, stream_type, send, receive, True)
        protocol.windows.promised += size
        self._streams[stream_id] = stream
        protocol.peer_streams += 1
        if codec.types_in_data:
            protocol.untyped[stream] = bytearray()  # it holds up no other stream meanwhile
        else:
            self._admit(stream)

    def _admit(self, stream: StreamState) -> None:
        """A new stream whose type is known: for the application, or a heartbeat stream."""
        protocol, codec = self._protocol, self._protocol.codec
        if codec.carries_types and stream.stream_type >= codec.reserved_types:
            if stream.stream_type != codec.heartbeat_type:
                self._refuse(stream, ErrorCode.STREAM_CLOSED)
            elif protocol.heartbeat_streams.full:
                self._refuse(stream, ErrorCode.STREAM_REFUSED)
            else:
                self._charge(WASTED_STREAM_COST)  # or it could open and end them for ever
                protocol.heartbeat_streams.streams[stream] = bytearray()
                protocol.peer_streams -= 1
        elif protocol.going_away:  # the SYN came before the GOAWAY, the type only now
            self._refuse(stream, ErrorCode.STREAM_REFUSED)
        elif len(protocol.backlog) >= protocol.config.accept_backlog:
            self._refuse(stream, ErrorCode.ACCEPT_QUEUE_FULL)
        else:
            protocol.backlog[stream.id] = stream
            protocol.arrived = True
            protocol.rank(stream)

    def _refuse(self, stream: StreamState, code: int) -> None:
        self._protocol.drop_unaccepted(stream, code)
        self._draw_reset(stream.id, code)

    # Data and ends.

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.fin_in or not stream.opened:
            self._on_late_data(stream, stream_id, length, fin)
            return
        window = stream.receive
        left = window.left - length
        if left < window.mark and length:
            if left < 0:
                self._charge(WASTED_STREAM_COST)
                text = f"the peer sent {length} bytes with a window of {window.left}"
                code = ErrorCode.FLOW_CONTROL_ERROR
                self._protocol.break_off(stream, Failure(FlowControlError, text, code))
                return
            window.left = left
            self._protocol.windows.reached(window, self._clock())
        else:
            window.left = left
        if not stream.answered:
            stream.answered = True
        elif not (length or fin):  # nor did it come with the SYN
            self._charge(USELESS_COST)
        if stream.read_shut and length and self._is_unwanted(stream):
            return
        if len(piece) != length:
            self.current, self._current_fin = stream, fin
            if len(piece):
                self.on_more(piece, False)
            return
        if length:
            if stream.read_shut:
                self._protocol.consumed(stream, length)
            else:
                stream.buffer.push(piece)
        self._arrived(stream, fin)

    def on_more(self, piece: memoryview, last: bool) -> None:
        stream = self.current
        if stream is None:  # the stream has ended meanwhile
            return
        if stream.read_shut:
            if self._is_unwanted(stream):
                return
            self._protocol.consumed(stream, len(piece))
        else:
            stream.buffer.push(piece)
        if last:
            self.current = None
        self._arrived(stream, last and self._current_fin)

    def _arrived(self, stream: StreamState, fin: bool) -> None:
        """Something has come on ``stream``, and with ``fin`` its end."""
        if fin:
            stream.fin_in = True
        if stream.readers or stream.poller is not None:
            changed = self._changed
            if not changed or changed[-1] is not stream:  # once is enough for a row of frames
                changed.append(stream)
        protocol = self._protocol
        if protocol.untyped or protocol.heartbeat_streams.streams:
            self._look_inside(stream)

    def _is_unwanted(self, stream: StreamState) -> bool:
        """Reset ``stream`` for DATA that comes after both directions were shut down.

        Else the peer would never learn that nobody reads. A FIN that is not sent yet goes first.
        """
        if not stream.fin_out or stream in self._protocol.pending.ending:
            return False
        self._draw_reset(stream.id, ErrorCode.STREAM_CLOSED)
        text = "the peer sent data after both directions were shut down"
        self._protocol.break_off(stream, Failure(StreamReset, text, ErrorCode.STREAM_CLOSED))
        return True

    def _on_late_data(
        self, stream: StreamState | None, stream_id: int, length: int, fin: bool
    ) -> None:
        """DATA for a stream that has ended or was never opened, or after its FIN."""
        if stream is None or not stream.opened:
            self._check_known(stream_id, "DATA")
            if not length and not (fin and self._protocol.late.end()):
                self._charge(USELESS_COST)
            if length or not fin:
                self._draw_reset(stream_id, ErrorCode.STREAM_CLOSED)
        elif fin and not length:
            self._charge(USELESS_COST)
        else:
            self._charge(WASTED_STREAM_COST)
            text = "the peer sent data after its FIN"
            failure = Failure(StreamReset, text, ErrorCode.STREAM_CLOSED)
            self._protocol.break_off(stream, failure)

    def read_directly(self, stream: StreamState, count: int) -> bool:
        """A reader has taken ``count`` bytes of the frame under way from the connection."""
        last = self._protocol.codec.passed(count)
        if self.current is not stream:
            return False
        wanted = not stream.read_shut
        self._protocol.consumed(stream, count)
        self.on_more(_NOTHING, last)
        return wanted

    def _look_inside(self, stream: StreamState) -> None:
        """Bytes have come that may be a stream's type or a heartbeat, not the application's."""
        protocol = self._protocol
        prefix = protocol.untyped.get(stream)
        if prefix is not None:
            data = stream.buffer.take(4 - len(prefix))
            prefix += data
            protocol.consumed(stream, len(data))
            if len(prefix) == 4:
                del protocol.untyped[stream]
                stream.stream_type = int.from_bytes(prefix, "big")
                self._admit(stream)
            elif stream.fin_in:
                self._refuse(stream, ErrorCode.PROTOCOL_ERROR)
        heartbeats = protocol.heartbeat_streams
        if stream not in heartbeats.streams:
            return
        if count := stream.buffer.size:
            if heartbeats.receive(stream):
                protocol.beat_answered = True
            if stream in heartbeats.waiting:
                protocol.pending.flush_now = True
            protocol.consumed(stream, count)
        if stream.fin_in:
            protocol.forget(stream)

    # The other frames.

    def on_rst(self, stream_id: int, code: int) -> None:
        protocol = self._protocol
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id == protocol.probe_id:
                protocol.beat_answered = True
            else:
                self._check_known(stream_id, "RST")
            if not protocol.late.reset(protocol.frames_sent):
                self._charge(USELESS_COST)
            return
        if not stream.local and stream.send.left >= protocol.config.window:
            self._charge(WASTED_STREAM_COST)
        protocol.broken_off += 1
        reason = ErrorCode.of(code)
        refused = reason in (ErrorCode.STREAM_REFUSED, ErrorCode.ACCEPT_QUEUE_FULL)
        if refused and stream.local and not stream.answered:
            text = f"the peer refused stream {stream_id}: {reason.name}"
            failure = Failure(StreamRefused, text, code, retryable=True)
        else:
            text = f"the peer reset stream {stream_id}: {reason.name}"
            failure = Failure(StreamReset, text, code)
        protocol.fail(stream, failure, keep=stream.local or stream.accepted)

    def on_window(self, stream_id: int, increment: int) -> None:
        protocol = self._protocol
        if not increment:
            protocol.ignored_frames += 1
            self._charge(USELESS_COST)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id, "WNDINC")
            if not protocol.late.update(increment):
                self._charge(USELESS_COST)
            return
        stream.answered = True
        if stream in protocol.heartbeat_streams.waiting:
            protocol.pending.flush_now = True
        send = stream.send
        if send.left + increment > MAX_WINDOW:
            self._charge(WASTED_STREAM_COST)
            text = f"the peer raised the window of stream {stream_id} over 2**31 - 1"
            failure = Failure(FlowControlError, text, ErrorCode.FLOW_CONTROL_ERROR)
            protocol.break_off(stream, failure)
            return
        send.left += increment
        if send.left > send.most:
            # Nothing that was sent has been read: the window itself grows, which takes few frames.
            send.most = send.left
            self._charge(USELESS_COST)
        if stream.write is not None:
            protocol.schedule.add(stream, stream.priority)
        if stream.writers or stream.poller is not None:
            self._changed.append(stream)

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        protocol = self._protocol
        # A peer that goes away for a reason sends a second GOAWAY, with NO_ERROR, as it closes.
        # On version 1 a GOAWAY is reported before its debug bytes have come, and then again.
        before = protocol.goaway
        better = before is not None and not before[1] and (code or not before[2])
        if before is None or better or before == (last_id, code, b""):
            protocol.goaway = (last_id, code, debug)
        self._charge(GOAWAY_COST)
        if last_id >= self._gone_above:
            return
        self._gone_above = last_id
        failure = self.gone_away()
        for stream in list(self._streams.values()):
            # Go names the id whose SYN came last, others the highest. Ours leave in the order of
            # their ids, so both mean the same, but an answer is better proof than either.
            if stream.local and stream.id > last_id and not stream.answered:
                protocol.fail(stream, failure)

    def gone_away(self) -> Failure:
        """What to raise for a stream that the peer has not taken before its GOAWAY."""
        assert self._protocol.goaway is not None
        _, code, debug = self._protocol.goaway
        text = f"the peer is going away ({ErrorCode.of(code).name}"
        text += f": {debug.decode('utf-8', 'replace')})" if debug else ")"
        return Failure(RemoteGoneAway, text, ErrorCode.REMOTE_GONE_AWAY, retryable=True)

    def on_unknown(self, frame_type: int) -> None:
        self._protocol.ignored_frames += 1
        self._charge(USELESS_COST)

    # What holds for all of them.

    def _is_ours(self, stream_id: int) -> bool:
        return stream_id & 1 == self._protocol.next_id & 1

    def _check_known(self, stream_id: int, name: str) -> None:
        """Where ids are strict, a frame for a stream that never was ends the session."""
        protocol = self._protocol
        if protocol.codec.strict_ids:
            ours = self._is_ours(stream_id)
            if stream_id >= protocol.next_id if ours else stream_id > self._last_peer_id:
                raise ProtocolError(f"{name} for stream {stream_id}, which was never opened")

    def _charge(self, cost: int) -> None:
        """Charge the peer for a frame that serves no stream."""
        budget = self._protocol.budget
        if not budget.charge(cost):
            raise EnhanceYourCalm(f"the peer sends more than {budget.size} useless frames a second")

    def _draw_reset(self, stream_id: int, code: int) -> None:
        """Have RST sent in answer to what the peer has just sent."""
        pending = self._protocol.pending
        if stream_id not in pending.resets:
            self._charge(USELESS_COST)
            pending.drawn += 1
            self._check_drawn()
        pending.reset(stream_id, code)

    def _check_drawn(self) -> None:
        if self._protocol.pending.drawn > _MAX_DRAWN:
            raise EnhanceYourCalm(f"the peer provokes {_MAX_DRAWN} frames and reads none")
