"""sendfile()."""

from __future__ import annotations

import io
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from .pipes import SHORT, Crew, Feature, Pipe, read_exactly, read_to_end

SIZE = 600_000
"""Bytes; several times what one read of the file and one window of a stream take."""

CONTENT = random.Random(5).randbytes(SIZE)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sendfile") / "content"
    path.write_bytes(CONTENT)
    return path


def test_whole_file(pipe: Pipe, crew: Crew, path: Path) -> None:
    reading = crew.start(read_to_end, pipe.far)
    with path.open("rb") as file, pipe.near:
        assert pipe.near.sendfile(file) == SIZE
        assert file.tell() == SIZE
    assert reading.result() == CONTENT


def test_whole_file_with_a_time_out(pipe: Pipe, crew: Crew, path: Path) -> None:
    reading = crew.start(read_exactly, pipe.far, SIZE)
    pipe.near.settimeout(20)
    with path.open("rb") as file:
        assert pipe.near.sendfile(file) == SIZE
    assert reading.result() == CONTENT


@pytest.mark.parametrize(
    ("offset", "count"),
    [
        (0, 1),
        (0, 8192),
        (0, 100_007),
        (5000, None),
        (2007, 100_007),
        (SIZE - 10, None),
        (SIZE - 10, 10),
        (SIZE - 10, 1000),  # the end of the file comes first
    ],
)
def test_part_of_a_file(pipe: Pipe, crew: Crew, path: Path, offset: int, count: int | None) -> None:
    expected = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]
    reading = crew.start(read_to_end, pipe.far)
    with path.open("rb") as file, pipe.near:
        assert pipe.near.sendfile(file, offset, count) == len(expected)
        assert file.tell() == offset + len(expected)
    assert reading.result() == expected


def test_keywords(pipe: Pipe, path: Path) -> None:
    with path.open("rb") as file:
        assert pipe.near.sendfile(file, offset=7, count=100) == 100
    assert read_exactly(pipe.far, 100) == CONTENT[7:107]


@pytest.mark.parametrize("offset", [0, 10])
def test_nothing_to_send(pipe: Pipe, tmp_path: Path, offset: int) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    with empty.open("rb") as file:
        assert pipe.near.sendfile(file, offset) == 0
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(1024) == b"spam"


def test_what_is_no_file_of_the_system(pipe: Pipe, crew: Crew) -> None:
    reading = crew.start(read_to_end, pipe.far)
    file = io.BytesIO(CONTENT)
    with pipe.near:
        assert pipe.near.sendfile(file, 1000, 200_000) == 200_000
        assert file.tell() == 201_000
    assert reading.result() == CONTENT[1000:201_000]


class OnlyRead:
    """A file that can be read and nothing else: no seek, no descriptor, no mode."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


def test_what_can_only_be_read(pipe: Pipe, crew: Crew) -> None:
    reading = crew.start(read_to_end, pipe.far)
    file: Any = OnlyRead(CONTENT[:50_000])
    with pipe.near:
        assert pipe.near.sendfile(file) == 50_000
    assert reading.result() == CONTENT[:50_000]


def test_text_file(pipe: Pipe, path: Path) -> None:
    with path.open(encoding="latin-1") as file:
        text: Any = file
        with pytest.raises(ValueError, match="binary mode"):
            pipe.near.sendfile(text)


@pytest.mark.parametrize("count", [0, -1])
def test_count_that_is_not_positive(pipe: Pipe, path: Path, count: int) -> None:
    with path.open("rb") as file, pytest.raises(ValueError, match="positive integer"):
        pipe.near.sendfile(file, count=count)


@pytest.mark.parametrize("count", ["2", 0.1])
def test_count_of_a_wrong_type(pipe: Pipe, path: Path, count: Any) -> None:
    with path.open("rb") as file, pytest.raises(TypeError, match="positive integer"):
        pipe.near.sendfile(file, count=count)


def test_not_on_an_end_that_may_not_wait(pipe: Pipe, path: Path) -> None:
    pipe.near.setblocking(False)
    with path.open("rb") as file:
        with pytest.raises(ValueError, match="non-blocking"):
            pipe.near.sendfile(file)
        assert file.tell() == 0


def test_position_after_a_time_out(pipe: Pipe, tmp_path: Path) -> None:
    """The file's position tells how much was sent before the time-out."""
    pipe.needs(Feature.EXACT_SEND, Feature.HALF_CLOSE)
    large = tmp_path / "large"
    large.write_bytes(CONTENT * 20)
    pipe.near.settimeout(SHORT)
    with large.open("rb") as file:
        with pytest.raises(TimeoutError):
            pipe.near.sendfile(file)
        position = file.tell()
    pipe.near.shutdown(socket.SHUT_WR)
    got = read_to_end(pipe.far)
    assert 0 < len(got) == position
    assert (CONTENT * 20).startswith(got)


def test_to_a_peer_that_closes(pipe: Pipe, crew: Crew, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(CONTENT * 20)
    with large.open("rb") as file:
        sending = crew.start(pipe.near.sendfile, file)
        assert pipe.far.recv(1) == CONTENT[:1]
        pipe.far.close()
        with pytest.raises(pipe.kind.broken):
            sending.result()
