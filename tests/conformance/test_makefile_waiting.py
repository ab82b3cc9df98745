"""Files whose end has a time-out, may not wait at all, or whose peer fails."""

from __future__ import annotations

from typing import Any

import pytest

from .pipes import GUARD, SHORT, Crew, Feature, Pipe, fill, read_exactly

MODES = [("rb", 0), ("rb", None), ("rb", 2), ("r", None), ("rwb", None)]


def open_file(pipe: Pipe, mode: Any, buffering: Any) -> Any:
    return pipe.far.makefile(mode, buffering, encoding=None if "b" in mode else "utf-8")


@pytest.mark.parametrize(("mode", "buffering"), MODES)
def test_time_out(pipe: Pipe, mode: str, buffering: int | None) -> None:
    """A buffered reader cannot say what it had got so far, so the file is unusable from there."""
    pipe.far.settimeout(SHORT)
    with open_file(pipe, mode, buffering) as file:
        with pytest.raises(TimeoutError):
            file.read(1)
        pipe.near.sendall(b"spam")
        for _ in range(2):
            with pytest.raises(OSError, match="cannot read from timed out object") as caught:
                file.read(1)
            assert not isinstance(caught.value, TimeoutError)
    # The end itself is none the worse.
    pipe.far.settimeout(GUARD)
    assert read_exactly(pipe.far, 4) == b"spam"


def test_time_out_after_some(pipe: Pipe) -> None:
    pipe.far.settimeout(SHORT)
    pipe.near.sendall(b"spam")
    with pipe.far.makefile("rb") as file:
        assert file.read(4) == b"spam"
        with pytest.raises(TimeoutError):
            file.readline()
        with pytest.raises(OSError, match="cannot read from timed out object"):
            file.readline()


def test_time_out_is_the_files_own(pipe: Pipe) -> None:
    pipe.far.settimeout(SHORT)
    with pipe.far.makefile("rb") as file, pytest.raises(TimeoutError):
        file.read(1)
    pipe.near.sendall(b"spam\n")
    with pipe.far.makefile("rb") as file:
        assert file.readline() == b"spam\n"


def test_bytes_in_time(pipe: Pipe, crew: Crew) -> None:
    pipe.far.settimeout(GUARD)
    with pipe.far.makefile("rb") as file:
        reading = crew.start(file.readline)
        pipe.near.sendall(b"spam\n")
        assert reading.result() == b"spam\n"


def test_writing_times_out(pipe: Pipe) -> None:
    pipe.needs(Feature.POLL)
    total = fill(pipe.near)
    pipe.near.settimeout(SHORT)
    with pipe.near.makefile("wb", buffering=0) as file:
        with pytest.raises(TimeoutError):
            file.write(b"spam")
        assert len(read_exactly(pipe.far, total)) == total
        pipe.near.settimeout(GUARD)
        assert file.write(b"eggs") == 4
        assert read_exactly(pipe.far, 4) == b"eggs"


def test_reading_may_not_wait(pipe: Pipe) -> None:
    """A raw file says None for 'nothing yet', which is not the end."""
    pipe.needs(Feature.PLAIN_ERRORS)
    pipe.far.setblocking(False)
    with pipe.far.makefile("rb", buffering=0) as file:
        assert file.read(4) is None
        assert file.readinto(bytearray(4)) is None
        pipe.near.sendall(b"spam and eggs")
        pipe.far.settimeout(GUARD)
        assert file.read(4) == b"spam"
        pipe.far.setblocking(False)
        assert file.read(1024) == b" and eggs"
        assert file.read(4) is None


def test_writing_may_not_wait(pipe: Pipe) -> None:
    pipe.needs(Feature.POLL)
    total = fill(pipe.near)
    with pipe.near.makefile("wb", buffering=0) as file:
        assert file.write(b"spam") is None
        assert len(read_exactly(pipe.far, total)) == total
        pipe.near.settimeout(GUARD)
        assert file.write(b"spam") == 4
        assert read_exactly(pipe.far, 4) == b"spam"
