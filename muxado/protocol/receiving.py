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
from muxado.protocol.heartbeats import MAX_HEARTBEAT_STREAMS
from muxado.protocol.limits import GOAWAY_COST, USELESS_COST, WASTED_STREAM_COST
from muxado.protocol.streams import Failure, StreamState

if TYPE_CHECKING:
    from muxado.protocol.protocol import Protocol

__all__ = ["Receiver"]

#: How many resets that the peer has provoked, and FINs of streams that it opened, may wait to be
#: sent. With more the session ends with ENHANCE_YOUR_CALM.
_MAX_DRAWN = 20_000
_TOO_MANY_DRAWN = f"the peer provokes {_MAX_DRAWN} frames and reads none"


class Receiver:
    """The codec's ``Handler``: it applies the peer's frames to the state in a ``Protocol``."""

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
        if not stream_id or stream_id & 1 == protocol.next_id & 1:
            raise ProtocolError(f"the peer opened stream {stream_id}, an id of the wrong parity")
        if stream_id in self._streams:
            raise ProtocolError(f"SYN for stream {stream_id}, which is open")
        if stream_id > self._last_peer_id:
            self._last_peer_id = stream_id
        elif codec.strict_ids:
            raise ProtocolError(f"SYN for stream {stream_id} after {self._last_peer_id}")
        if protocol.pending.drawn > _MAX_DRAWN:
            raise EnhanceYourCalm(_TOO_MANY_DRAWN)
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
            elif len(protocol.heartbeat_streams.streams) >= MAX_HEARTBEAT_STREAMS:
                self._refuse(stream, ErrorCode.STREAM_REFUSED)
            else:
                protocol.budget.charge(WASTED_STREAM_COST)  # or it could open and end them for ever
                protocol.heartbeat_streams.streams[stream] = bytearray()
                protocol.peer_streams -= 1
        elif protocol.going_away:  # the SYN came before the GOAWAY, the type only now
            self._refuse(stream, ErrorCode.STREAM_REFUSED)
        elif len(protocol.backlog) >= protocol.config.accept_backlog:
            self._refuse(stream, ErrorCode.ACCEPT_QUEUE_FULL)
        else:
            protocol.backlog[stream.id] = stream
            protocol.arrived = True
            stream.ranked = True
            protocol.rank(stream.priority, 1)

    def _refuse(self, stream: StreamState, code: int) -> None:
        self._draw_reset(stream.id, code)
        self._protocol.refuse(stream, code)

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
                self._protocol.budget.charge(WASTED_STREAM_COST)
                text = f"the peer sent {length} bytes with a window of {window.left}"
                code = ErrorCode.FLOW_CONTROL_ERROR
                self._protocol.break_off(stream, text, code, FlowControlError)
                return
            window.left = left
            self._protocol.windows.reached(window, self._clock())
        else:
            window.left = left
        if not stream.answered:
            stream.answered = True
        elif not (length or fin):  # nor did it come with the SYN
            self._protocol.budget.charge(USELESS_COST)
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
        if fin:
            stream.fin_in = True
        if stream.readers or stream.poller is not None:
            self._changed[stream] = None
        protocol = self._protocol
        if protocol.untyped or protocol.heartbeat_streams.streams:
            self._look_inside(stream)

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
            stream.fin_in = self._current_fin
        if stream.readers or stream.poller is not None:
            self._changed[stream] = None
        if self._protocol.untyped or self._protocol.heartbeat_streams.streams:
            self._look_inside(stream)

    def _is_unwanted(self, stream: StreamState) -> bool:
        """Reset ``stream`` for DATA that comes after both directions were shut down.

        Else the peer would never learn that nobody reads. A FIN that is not sent yet goes first.
        """
        if not stream.fin_out or stream in self._protocol.pending.ending:
            return False
        self._draw_reset(stream.id, ErrorCode.STREAM_CLOSED)
        text = "the peer sent data after both directions were shut down"
        self._protocol.break_off(stream, text, ErrorCode.STREAM_CLOSED)
        return True

    def _on_late_data(
        self, stream: StreamState | None, stream_id: int, length: int, fin: bool
    ) -> None:
        """DATA for a stream that has ended or was never opened, or after its FIN."""
        if stream is None or not stream.opened:
            protocol = self._protocol
            if protocol.codec.strict_ids:
                self._check_known(stream_id, "DATA")
            if fin and not length and protocol.late.ends:
                protocol.late.ends -= 1
            elif not length:
                self._protocol.budget.charge(USELESS_COST)
            if length or not fin:
                self._draw_reset(stream_id, ErrorCode.STREAM_CLOSED)
        elif fin and not length:
            self._protocol.budget.charge(USELESS_COST)
        else:
            self._protocol.budget.charge(WASTED_STREAM_COST)
            text = "the peer sent data after its FIN"
            self._protocol.break_off(stream, text, ErrorCode.STREAM_CLOSED)

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
            elif protocol.codec.strict_ids:
                self._check_known(stream_id, "RST")
            protocol.late.resets += 1
            if protocol.late.resets > protocol.pending.frames_sent:
                self._protocol.budget.charge(USELESS_COST)
            return
        if not stream.local and stream.send.left >= protocol.config.window:
            self._protocol.budget.charge(WASTED_STREAM_COST)
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
            self._protocol.budget.charge(USELESS_COST)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if protocol.codec.strict_ids:
                self._check_known(stream_id, "WNDINC")
            if increment <= protocol.late.credit:
                protocol.late.credit -= increment
            else:
                self._protocol.budget.charge(USELESS_COST)
            return
        stream.answered = True
        if stream in protocol.heartbeat_streams.waiting:
            protocol.pending.flush_now = True
        send = stream.send
        if send.left + increment > MAX_WINDOW:
            self._protocol.budget.charge(WASTED_STREAM_COST)
            text = f"the peer raised the window of stream {stream_id} over 2**31 - 1"
            protocol.break_off(stream, text, ErrorCode.FLOW_CONTROL_ERROR, FlowControlError)
            return
        send.left += increment
        if send.left > send.most:
            # Nothing that was sent has been read: the window itself grows, which takes few frames.
            send.most = send.left
            self._protocol.budget.charge(USELESS_COST)
        if stream.write is not None:
            protocol.schedule.add(stream, stream.priority)
        if stream.writers or stream.poller is not None:
            self._changed[stream] = None

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        protocol = self._protocol
        # A peer that goes away for a reason sends a second GOAWAY, with NO_ERROR, as it closes.
        # On version 1 a GOAWAY is reported before its debug bytes have come, and then again.
        before = protocol.goaway
        better = before is not None and not before[1] and (code or not before[2])
        if before is None or better or before == (last_id, code, b""):
            protocol.goaway = (last_id, code, debug)
        self._protocol.budget.charge(GOAWAY_COST)
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
        self._protocol.budget.charge(USELESS_COST)

    # What holds for all of them.

    def _check_known(self, stream_id: int, name: str) -> None:
        """Where ids are strict, a frame for a stream that never was ends the session."""
        next_id = self._protocol.next_id
        ours = stream_id & 1 == next_id & 1
        if stream_id >= next_id if ours else stream_id > self._last_peer_id:
            raise ProtocolError(f"{name} for stream {stream_id}, which was never opened")

    def _draw_reset(self, stream_id: int, code: int) -> None:
        """Have RST sent in answer to what the peer has just sent."""
        pending = self._protocol.pending
        if stream_id not in pending.resets:
            self._protocol.budget.charge(USELESS_COST)
            pending.drawn += 1
            if pending.drawn > _MAX_DRAWN:
                raise EnhanceYourCalm(_TOO_MANY_DRAWN)
        pending.reset(stream_id, code)
