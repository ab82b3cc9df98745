"""What the applications at both ends did, and therefore what they may see.

A *flow* is one direction of a stream. The bytes of most flows follow a pattern, so that each one
tells its place. Those of others tell which call sent them, so that several threads may send at
once: the bytes of each ``sendall`` must stay together.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import itertools

import muxado

__all__ = ["Flow", "Talk", "Truth"]


class Flow:
    """What one end sends to the other on one stream."""

    def __init__(self, salt: int, *, tagged: bool) -> None:
        self.salt = salt
        self.tagged = tagged
        self.low = 0  # bytes that calls which returned have sent
        self.high = 0  # with those that calls under way, or failed, may have sent
        self.got = 0  # bytes that reads have returned
        self.writers = 0
        self.readers = 0
        self.mixed = False  # two have read at once: nobody knows who was first
        self._text = bytearray()  # what was read, unless mixed
        self._seen: collections.Counter[int] = collections.Counter()
        self._most: list[int] = []  # of each call: bytes that it may have sent
        self._least: list[int] = []  # and has sent

    def __repr__(self) -> str:
        return f"<{self.got} of {self.low} to {self.high} bytes>"

    def pattern(self, start: int, size: int) -> bytes:
        return bytes((self.salt + place) % 251 for place in range(start, start + size))

    # The sender.

    def begin(self, size: int) -> tuple[int, bytes]:
        """A call that sends is made: its number, and what it is to send."""
        number = len(self._most)
        data = bytes([number % 251]) * size if self.tagged else self.pattern(self.low, size)
        self.writers += 1
        self.high += size
        self._most.append(size)
        self._least.append(0)
        return number, data

    def sent(self, number: int, least: int, most: int) -> None:
        """The call has ended, having sent so much."""
        self.writers -= 1
        self.low += least
        self.high -= self._most[number] - most
        self._most[number], self._least[number] = most, least
        assert self.got <= self.high, "more was read than sent"

    @property
    def torn(self) -> bool:
        """A call failed, and nobody knows how much it sent."""
        return self.low != self.high and not self.writers

    # The reader.

    def enter(self) -> None:
        self.readers += 1
        self.mixed = self.mixed or self.readers > 1

    def leave(self) -> None:
        self.readers -= 1

    def peeked(self, data: bytes) -> None:
        if self.mixed:
            return
        assert self.got + len(data) <= self.high, "more was seen than sent"
        if not self.tagged:
            assert data == self.pattern(self.got, len(data)), "other bytes than were sent"

    def received(self, data: bytes) -> None:
        self.peeked(data)
        self.got += len(data)
        assert self.got <= self.high, "more was read than sent"
        self._seen.update(data)
        if not self.mixed:
            self._text += data

    def check(self) -> None:
        """Whether what was read is the beginning of what was sent; nobody may be reading."""
        assert not self.readers
        if not self.tagged:
            assert self._seen == collections.Counter(self.pattern(0, self.got))
        elif self.mixed:
            most = dict(enumerate(self._most))
            assert all(count <= most[number] for number, count in self._seen.items())
        else:
            runs = [(number, len(list(run))) for number, run in itertools.groupby(self._text)]
            assert len({number for number, _ in runs}) == len(runs), "a call's bytes are torn"
            for place, (number, count) in enumerate(runs):
                assert count <= self._most[number]
                if place < len(runs) - 1:
                    assert count >= self._least[number], "bytes of one call are lost"

    def complete(self) -> None:
        """The end was seen: whether all was read."""
        assert self.low <= self.got <= self.high, f"read {self.got} of {self.low} to {self.high}"


@dataclasses.dataclass
class Talk:
    """One stream, and what each side's application did to it; index 0 is the client's side."""

    opener: int
    number: int
    ends: list[muxado.Stream | None] = dataclasses.field(default_factory=lambda: [None, None])
    shut: list[bool] = dataclasses.field(default_factory=lambda: [False, False])
    read_shut: list[bool] = dataclasses.field(default_factory=lambda: [False, False])
    closed: list[bool] = dataclasses.field(default_factory=lambda: [False, False])
    reset: list[bool] = dataclasses.field(default_factory=lambda: [False, False])
    timed: list[bool] = dataclasses.field(default_factory=lambda: [False, False])
    flows: list[Flow] = dataclasses.field(init=False)  # index: who sends

    def __post_init__(self) -> None:
        salt = self.number * 31 + self.opener * 7
        tagged = self.number // 2 % 3 == 0
        self.flows = [Flow(salt, tagged=tagged), Flow(salt + 101, tagged=tagged)]

    @property
    def untouched(self) -> bool:
        """No side has reset it, or will answer to more bytes with a reset."""
        deaf = any(map(all, zip(self.shut, self.read_shut, strict=True)))
        return not (any(self.reset) or any(self.closed) or deaf)

    def excuses(self, side: int, error: OSError, truth: Truth) -> bool:
        """Whether something was done that makes ``error`` right for the application of ``side``."""
        other = 1 - side
        if isinstance(error, muxado.SessionClosed):
            return truth.ended
        if isinstance(error, (muxado.StreamRefused, muxado.RemoteGoneAway)):
            return truth.ended or truth.gone[other]
        if isinstance(error, ConnectionResetError):
            return not self.untouched
        if isinstance(error, (TimeoutError, BlockingIOError)):
            return self.timed[side]
        if isinstance(error, BrokenPipeError):
            return self.shut[side]
        if error.errno == errno.EBADF:
            return self.closed[side]
        if error.errno == errno.ENOTCONN:
            return not self.untouched or truth.ended or truth.gone[other]
        return False

    def readable(self, side: int, slack: int = 0) -> bool:
        """Whether a read of ``side`` that still waits has missed something.

        ``slack``: bytes that somebody may have taken in a call that has not returned.
        """
        flow = self.flows[1 - side]
        ends = self.shut[1 - side] or self.read_shut[side] or not self.untouched
        return ends or flow.low - flow.got > slack

    def writable(self, side: int, window: int) -> bool:
        """Whether a send of ``side`` that still waits has missed something."""
        flow = self.flows[side]
        ends = self.shut[side] or self.read_shut[1 - side] or not self.untouched
        # The reader's side tells of what was read when it is half a window.
        return ends or flow.high - flow.got <= window // 2


class Truth:
    """Everything that was done in one run."""

    def __init__(self) -> None:
        self.talks: dict[tuple[int, int], Talk] = {}
        self.ended = False  # somebody has ended a session, or the connection broke
        self.gone = [False, False]  # this side said GOAWAY
        self.finishing = [0, 0]  # calls of this side's that open a stream finished, under way

    def opened(self, side: int, stream: muxado.Stream, *, fin: bool) -> Talk:
        # The peer may have been faster, and have accepted it before open() returned.
        talk = self._talk(side, stream)
        talk.ends[side] = stream
        talk.shut[side] = talk.shut[side] or fin
        return talk

    def accepted(self, side: int, stream: muxado.Stream) -> Talk:
        talk = self._talk(1 - side, stream)
        assert talk.ends[side] is None, "accepted twice"
        talk.ends[side] = stream
        return talk

    def _talk(self, opener: int, stream: muxado.Stream) -> Talk:
        return self.talks.setdefault((opener, stream.id), Talk(opener, stream.id))

    def held(self, side: int) -> list[Talk]:
        """The streams that ``side`` has and has not closed."""
        return [t for t in self.talks.values() if t.ends[side] is not None and not t.closed[side]]

    def waits_for_accept(self, side: int) -> list[Talk]:
        """Streams that ``accept()`` of ``side`` must hand out sooner or later."""
        return [
            talk
            for talk in self.talks.values()
            if talk.opener != side and talk.ends[side] is None and not any(talk.reset)
        ]
