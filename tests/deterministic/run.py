"""Plans carried out, and what is seen compared with the oracle."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import muxado
from muxado import ErrorCode
from muxado.engine import lifecycle, process, reading, sending, writing

from .link import Memory, connect, cut
from .oracle import Talk, Truth
from .plans import ENDS, PATIENCE, Plan, Step
from .world import World

__all__ = ["Run", "perform"]


#: What decides how much is done at once, made so small that short runs reach all of it.
_SMALLER: tuple[tuple[Any, str, int], ...] = (
    (reading, "READ", 40),
    (lifecycle, "READ", 40),
    (reading, "EAGER", 10),
    (reading, "LONG", 3),
    (sending, "_SMALL", 10),
    (sending, "OUTBOX_FULL", 60),
    (writing, "OUTBOX_FULL", 60),
    (writing, "_ROOM", 120),
    (writing, "_ROOM_CONTENDED", 40),
    (writing, "_FRAME", 30),
    (writing, "_FRAME_MOST", 80),
    (writing, "_FRAME_CONTENDED", 12),
    (writing, "_ROUNDS", 2),
)


@contextlib.contextmanager
def few_bytes_are_many() -> Iterator[None]:
    """What is done with long frames only is done in these runs, whose frames are short."""
    before = [(module, name, getattr(module, name)) for module, name, _ in _SMALLER]
    for module, name, value in _SMALLER:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


class Player:
    """One thread of an application."""

    def __init__(self, run: Run, side: int, steps: tuple[Step, ...]) -> None:
        self.run = run
        self.side = side
        self.steps = steps
        #: What it is doing that may wait: the step's name, the stream, a size.
        self.doing: tuple[str, Talk | None, int] | None = None

    def __call__(self) -> None:
        for step in self.steps:
            self.take(step)

    def take(self, step: Step) -> None:
        session = self.run.sessions[self.side]
        if step.name in ("open", "open_finished", "ask"):
            self.open(session, step)
        elif step.name in ("accept", "answer", "poll_session"):
            self.accept(session, step)
        elif step.name in ENDS:
            self.end(session, step)
        elif step.name == "pause":
            self.run.world.sleep(0.001 * step.size)
        elif held := self.run.truth.held(self.side):
            talk = held[step.pick % len(held)]
            try:
                self.use(talk, step)
            except OSError as error:
                self.excused(talk, error)

    def excused(self, talk: Talk, error: OSError) -> None:
        if not talk.excuses(self.side, error, self.run.truth):
            raise AssertionError(f"nothing was done that explains {error!r}") from error

    def waits(self, what: str, talk: Talk | None, size: int, call: Callable[..., Any]) -> Any:
        """Call what may wait."""
        self.doing = what, talk, size
        try:
            return call()
        finally:
            self.doing = None

    # On the session.

    def open(self, session: muxado.Session, step: Step) -> None:
        truth = self.run.truth
        fin = step.name == "open_finished"
        truth.finishing[self.side] += fin
        try:
            stream = session.open(fin=fin, priority=step.pick % 3)
            talk = truth.opened(self.side, stream, fin=fin)
        except (muxado.SessionClosed, muxado.RemoteGoneAway):
            assert truth.ended or any(truth.gone)
            return
        finally:
            truth.finishing[self.side] -= fin
        if step.name == "ask":
            try:
                self.sendall(talk, step.size)
                self.finish(talk)
                while self.recv(talk, 50):
                    pass
                self.close(talk)
            except OSError as error:
                self.excused(talk, error)

    def accept(self, session: muxado.Session, step: Step) -> None:
        truth = self.run.truth
        patience = PATIENCE[step.patience % len(PATIENCE)]
        if step.name == "poll_session":
            self.waits("accept", None, 0, lambda: self.run.poll(session))
            patience = 0.0
        session.settimeout(patience)
        try:
            stream, _ = self.waits("accept", None, 0, session.accept)
        except (TimeoutError, BlockingIOError):
            return  # another player may have set the time-out
        except muxado.SessionClosed:
            assert truth.ended
            return
        talk = truth.accepted(self.side, stream)
        if step.name == "answer":
            try:
                while data := self.recv(talk, 50):
                    self.sendall(talk, len(data))
                self.close(talk)
            except OSError as error:
                self.excused(talk, error)

    def end(self, session: muxado.Session, step: Step) -> None:
        truth = self.run.truth
        if step.name in ("go_away", "drain"):
            truth.gone[self.side] = True
            session.go_away()
            if step.name == "drain":
                patience = PATIENCE[step.patience % len(PATIENCE)]
                try:
                    self.waits("drain", None, 0, lambda: session.drain(patience))
                except muxado.SessionClosed:
                    assert truth.ended
            return
        truth.ended = self.run.ended_early = True
        if step.name == "close_session":
            self.waits("close", None, 0, session.close)
        elif step.name == "kill_session":
            self.waits("kill", None, 0, session.kill)
        else:
            cut(self.run.ends[0])

    # On a stream.

    def use(self, talk: Talk, step: Step) -> None:
        stream = self.stream(talk)
        patience = PATIENCE[step.patience % len(PATIENCE)]
        if step.name in ("send", "sendall", "recv", "recv_whole", "peek"):
            talk.timed[self.side] |= patience is not None
            stream.settimeout(patience)
        if step.name == "send":
            self.send(talk, step.size)
        elif step.name == "sendall":
            self.sendall(talk, step.size)
        elif step.name == "recv":
            self.recv(talk, step.size)
        elif step.name == "recv_whole":
            self.recv(talk, step.size, socket.MSG_WAITALL)
        elif step.name == "peek":
            self.recv(talk, step.size, socket.MSG_PEEK)
        elif step.name == "poll":
            self.poll(talk, step.size)
        elif step.name == "finish":
            self.finish(talk)
        elif step.name == "shut_read":
            talk.read_shut[self.side] = True
            stream.shutdown(socket.SHUT_RD)
        elif step.name == "close":
            self.close(talk)
        elif step.name == "reset":
            talk.reset[self.side] = True
            stream.reset()
        elif step.name == "prefer":
            stream.priority = step.size
        elif step.name == "watch":
            stream.fileno()

    def stream(self, talk: Talk) -> muxado.Stream:
        stream = talk.ends[self.side]
        assert stream is not None
        return stream

    def poll(self, talk: Talk, size: int) -> None:
        """Where nobody else reads, what polls readable can be read without waiting."""
        flow = talk.flows[1 - self.side]
        flow.enter()  # whoever reads meanwhile may take it
        try:
            self.waits("recv", talk, 0, lambda: self.run.poll(self.stream(talk)))
            self.recv(talk, size, socket.MSG_DONTWAIT, entered=True)
        except BlockingIOError as error:
            if not flow.mixed:
                raise AssertionError("it polled readable") from error
        finally:
            flow.leave()

    def finish(self, talk: Talk) -> None:
        talk.shut[self.side] = True
        self.stream(talk).shutdown(socket.SHUT_WR)

    def close(self, talk: Talk) -> None:
        talk.closed[self.side] = talk.shut[self.side] = True
        self.stream(talk).close()

    def send(self, talk: Talk, size: int) -> None:
        flow = talk.flows[self.side]
        if flow.torn or (flow.writers and not flow.tagged):
            return
        call, data = flow.begin(size)
        try:
            count = self.waits("send", talk, size, lambda: self.stream(talk).send(data))
        except (TimeoutError, BlockingIOError):
            flow.sent(call, 0, 0)  # nothing went: it may be sent again
            raise
        except BaseException:
            flow.sent(call, 0, size)
            raise
        assert 0 < count <= size
        flow.sent(call, count, count)

    def sendall(self, talk: Talk, size: int) -> None:
        flow = talk.flows[self.side]
        if flow.torn or (flow.writers and not flow.tagged):
            return
        call, data = flow.begin(size)
        try:
            self.waits("send", talk, size, lambda: self.stream(talk).sendall(data))
        except BaseException:
            flow.sent(call, 0, size)
            raise
        flow.sent(call, size, size)

    def recv(self, talk: Talk, size: int, flags: int = 0, *, entered: bool = False) -> bytes:
        flow = talk.flows[1 - self.side]
        whole = size if flags == socket.MSG_WAITALL else 0
        if not entered:
            flow.enter()
        try:
            stream = self.stream(talk)
            if flags or size % 3 == 0:
                data: bytes = self.waits("recv", talk, whole, lambda: stream.recv(size, flags))
            else:
                memory = bytearray(size)
                count = self.waits("recv", talk, whole, lambda: stream.recv_into(memory))
                data = bytes(memory[:count])
                memory[:count] = bytes(count)
                self.run.returned.append(memory)
            assert len(data) <= size
            if flags == socket.MSG_PEEK:
                flow.peeked(data)
            else:
                flow.received(data)
            if not data and not talk.read_shut[self.side]:
                # Who opens a stream finished may not have heard yet that it is open.
                other = 1 - self.side
                born = talk.ends[other] is None and self.run.truth.finishing[other]
                assert talk.shut[other] or born, "an end of file that nobody sent"
                if flow.readers == 1:
                    flow.complete()
        finally:
            if not entered:
                flow.leave()
        return data


class Run:
    """A plan being carried out."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan = plan
        self.world = world
        self.truth = Truth()
        self.ends: tuple[Memory, Memory]
        self.sessions: tuple[muxado.Session, ...] = ()
        self.returned: list[bytearray] = []  # memory that callers have back, and made empty
        self.ended_early = False  # a player has begun to end a session
        self.players = [Player(self, *each) for each in plan.players]

    def __call__(self) -> None:
        plan, world = self.plan, self.world
        options = {
            "version": plan.version,
            "window": plan.window,
            "max_window": plan.window,
            "heartbeat_interval": None,
        }
        self.ends = connect(world, plan.cuts)
        self.sessions = (
            muxado.client(self.ends[0], **options),
            muxado.server(self.ends[1], **options),
        )
        threads = [
            world.start(f"{'client' if player.side == 0 else 'server'}-player-{number}", player)
            for number, player in enumerate(self.players)
        ]
        world.quiet()
        self.nothing_was_missed()
        clean = not self.truth.ended
        if plan.punctual and not plan.cuts.spins:
            # No thread was late, so whoever had to be rescued had been forgotten.
            assert not any(s.stats().rescues for s in self.sessions), "a reader had to be rescued"
        if clean:
            self.windows_add_up()
        self.truth.ended = True
        first, second = plan.first, 1 - plan.first
        before = world.now
        self.sessions[first].close()
        if clean and not self.ended_early:  # which may have been since
            assert world.now - before < 1, "close() had nothing to wait for"
        for thread in threads:
            thread.join()
        if clean and not self.ended_early:
            self.all_arrives(second)
        self.sessions[second].close()
        self.let_go()
        for talk in self.truth.talks.values():
            for flow in talk.flows:
                flow.check()
        assert not any(map(any, self.returned)), "read into memory that was given back"
        codes = {session.wait(0).code for session in self.sessions}
        if clean and not self.ended_early:
            assert codes == {ErrorCode.NO_ERROR}
        assert ErrorCode.INTERNAL_ERROR not in codes
        assert ErrorCode.PROTOCOL_ERROR not in codes
        assert all(end.given_back for end in self.ends)

    def let_go(self) -> None:
        """Close what is open, or its finalizers would use this world's locks when it is over."""
        for talk in self.truth.talks.values():
            for stream in talk.ends:
                if stream is not None:
                    stream.close()

    def poll(self, what: muxado.Stream | muxado.Session) -> None:
        """Wait until the descriptor polls readable, or its owner is closed.

        Nothing tells a thread that polls a descriptor which another one closes; and a session
        tells of its end once, and another player may be who is told.
        """
        number = what.fileno()
        if number < 0:
            return
        poller = select.poll()
        poller.register(number, select.POLLIN)
        # Looked at while the scheduler decides, so it must not be a call of muxado's.
        engine = what._engine if isinstance(what, muxado.Session) else None
        self.world.wait(lambda: what._closed or (engine and engine.core.end) or poller.poll(0))

    # When everybody waits.

    def nothing_was_missed(self) -> None:
        """Whoever still waits must wait for something that nobody has done."""
        for player in self.players:
            if player.doing is None:
                continue
            what, talk, _ = player.doing
            side = player.side
            if what in ("close", "kill"):
                missed = True
            elif what == "drain":
                missed = not self.truth.held(side) and not self.truth.waits_for_accept(side)
            elif talk is None:
                missed = bool(self.truth.waits_for_accept(side)) and not any(self.truth.gone)
            elif what == "recv":
                missed = talk.readable(side, self.slack(talk, side))
            else:
                missed = talk.writable(side, self.plan.window)
            if missed or self.truth.ended:
                raise AssertionError(
                    self.world.report(f"{what} of side {side} waits for what has come: {talk}")
                )

    def slack(self, talk: Talk, side: int) -> int:
        """Bytes that calls which wait for a whole message may have taken already."""
        return sum(
            player.doing[2] - 1
            for player in self.players
            if player.doing and player.doing[1] is talk and player.side == side and player.doing[2]
            if player.doing[0] == "recv"
        )

    def windows_add_up(self) -> None:
        """What one end may still send is what the other has room for."""
        window = self.plan.window
        protocols = [session._engine.core.protocol for session in self.sessions]
        for protocol, other in (protocols, protocols[::-1]):
            for number, stream in protocol.streams.items():
                peer = other.streams.get(number)
                if peer is None or peer.read_shut:
                    continue
                assert stream.send.left >= 0
                assert 0 <= peer.buffer.size <= window
                assert stream.send.left == window - peer.buffer.size - peer.receive.read
                assert peer.fin_in or peer.receive.read * 2 < window

    def all_arrives(self, side: int) -> None:
        """The other side has closed its session: what it sent before can be read."""
        player = Player(self, side, ())
        for talk in self.truth.held(side):
            if talk.read_shut[side] or any(talk.reset):
                continue
            player.stream(talk).settimeout(None)
            try:
                while player.recv(talk, 50):
                    pass
            except OSError as error:
                player.excused(talk, error)
            if not talk.closed[1 - side]:  # else it may have been reset over bytes unread
                talk.flows[1 - side].complete()


def perform(plan: Plan) -> World:
    """Carry ``plan`` out; raises what went wrong, the plan in a note."""
    world = World(plan.choices(), lines=plan.lines, punctual=plan.punctual)
    run = Run(plan, world)
    try:
        with few_bytes_are_many():
            world.run(run)
    except Exception as error:
        for session in run.sessions:
            process._abandon(session._engine)  # its threads were ended in the middle of things
        run.let_go()
        raise AssertionError(f"{error}\n\nTo see it again: perform({plan!r})") from error
    return world
