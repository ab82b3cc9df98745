"""makefile(): the file objects that most of the standard library reads and writes through."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from .pipes import Crew, Pipe, read_exactly, read_to_end

BUFFERINGS = [None, 0, 1, 2]
LINES = b"first line\nsecond\n\nlast, without end"

bufferings = pytest.mark.parametrize("buffering", BUFFERINGS)


@pytest.mark.parametrize(
    ("mode", "buffering", "expected"),
    [
        ("rb", None, io.BufferedReader),
        ("wb", None, io.BufferedWriter),
        ("rwb", None, io.BufferedRWPair),
        ("rb", 0, io.RawIOBase),
        ("wb", 0, io.RawIOBase),
        ("rwb", 0, io.RawIOBase),
        ("r", None, io.TextIOWrapper),
        ("w", None, io.TextIOWrapper),
        ("rw", None, io.TextIOWrapper),
    ],
)
def test_types(pipe: Pipe, mode: Any, buffering: Any, expected: Any) -> None:
    encoding = None if "b" in mode else "utf-8"
    with pipe.near.makefile(mode, buffering, encoding=encoding) as file:
        assert isinstance(file, expected)
        assert file.readable() is ("r" in mode)
        assert file.writable() is ("w" in mode)
        assert file.seekable() is False
        assert file.isatty() is False


@pytest.mark.parametrize("mode", ["r", "rb", "w", "wb", "rw"])
def test_attributes(pipe: Pipe, mode: Any) -> None:
    encoding = None if "b" in mode else "utf-8"
    with pipe.near.makefile(mode, encoding=encoding) as file:
        assert file.mode == mode
        assert not file.closed
        if mode != "rw":  # the pair of buffers below that has neither
            assert file.fileno() == pipe.near.fileno()
            assert file.name == pipe.near.fileno()
    assert file.closed


def test_default_mode_is_text(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam\n")
    with pipe.far.makefile(encoding="utf-8") as file:
        assert file.readline() == "spam\n"


@pytest.mark.parametrize("mode", ["rt", "x", "+", "a", "r+", "rbx"])
def test_bad_modes(pipe: Pipe, mode: Any) -> None:
    with pytest.raises(ValueError, match="invalid mode"):
        pipe.near.makefile(mode)


def test_text_has_to_be_buffered(pipe: Pipe) -> None:
    with pytest.raises(ValueError, match="binary"):
        pipe.near.makefile("r", buffering=0)
    # Nothing of the attempt is left that would keep the end open.
    pipe.near.close()
    if pipe.near.fileno() != -1:
        pipe.near.close()


@bufferings
def test_read_to_the_end(pipe: Pipe, crew: Crew, buffering: Any) -> None:
    data = LINES * 3000
    with pipe.far.makefile("rb", buffering) as file:
        reading = crew.start(file.read)
        pipe.near.sendall(data)
        pipe.near.close()
        assert reading.result() == data
        assert file.read() == b""
        assert file.read(1) == b""


@bufferings
def test_read_some(pipe: Pipe, buffering: Any) -> None:
    pipe.near.sendall(b"spam and eggs")
    with pipe.far.makefile("rb", buffering) as file:
        assert file.read(4) == b"spam"
        assert file.read(0) == b""
        assert file.read(9) == b" and eggs"


def test_buffered_read_waits_for_all(pipe: Pipe, crew: Crew) -> None:
    with pipe.far.makefile("rb") as file:
        reading = crew.start(file.read, 12)
        for piece in (b"spam", b"and", b"eggs", b"..."):
            pipe.near.sendall(piece)
        assert reading.result() == b"spamandeggs."
        assert file.read(2) == b".."


def test_raw_read_takes_what_there_is(pipe: Pipe) -> None:
    with pipe.far.makefile("rb", buffering=0) as file:
        pipe.near.sendall(b"spam")
        assert file.read(1024) == b"spam"


@bufferings
def test_lines(pipe: Pipe, buffering: Any) -> None:
    pipe.near.sendall(LINES)
    pipe.near.close()
    with pipe.far.makefile("rb", buffering) as file:
        assert file.readline() == b"first line\n"
        assert file.readline(3) == b"sec"
        assert file.readline() == b"ond\n"
        assert list(file) == [b"\n", b"last, without end"]
        assert file.readline() == b""


def test_a_line_in_pieces(pipe: Pipe, crew: Crew) -> None:
    with pipe.far.makefile("rb") as file:
        reading = crew.start(file.readline)
        for piece in (b"spam", b" and", b" eggs\nmo"):
            pipe.near.sendall(piece)
        assert reading.result() == b"spam and eggs\n"
        pipe.near.sendall(b"re\n")
        assert file.readline() == b"more\n"


@bufferings
def test_readinto(pipe: Pipe, buffering: Any) -> None:
    pipe.near.sendall(b"spam and eggs")
    buffer = bytearray(b"." * 8)
    with pipe.far.makefile("rb", buffering) as file:
        assert file.readinto(memoryview(buffer)[:4]) == 4
        assert buffer == b"spam...."
        assert file.readinto(buffer) == 8
        assert buffer == b" and egg"


def test_read1_and_peek(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    with pipe.far.makefile("rb") as file:
        assert file.peek(1) == b"spam"
        assert file.read1(1024) == b"spam"
        pipe.near.sendall(b"eggs")
        assert file.read1() == b"eggs"


def test_raw_files_share_without_loss(pipe: Pipe) -> None:
    """What one raw file did not return, the next one does."""
    pipe.near.sendall(b"first\nsecond\nrest")
    with pipe.far.makefile("rb", buffering=0) as file:
        assert file.readline() == b"first\n"
    with pipe.far.makefile("rb", buffering=0) as file:
        assert file.readline() == b"second\n"
    assert pipe.far.recv(1024) == b"rest"


@bufferings
def test_write(pipe: Pipe, buffering: Any) -> None:
    with pipe.near.makefile("wb", buffering) as file:
        assert file.write(b"spam") == 4
        assert file.write(memoryview(b" and eggs")) == 9
        file.flush()
        assert read_exactly(pipe.far, 13) == b"spam and eggs"
        file.write(b"the rest")
    assert read_exactly(pipe.far, 8) == b"the rest"


@bufferings
def test_write_much(pipe: Pipe, crew: Crew, buffering: Any) -> None:
    data = LINES * 10_000
    reading = crew.start(read_to_end, pipe.far)
    with pipe.near, pipe.near.makefile("wb", buffering) as file:
        view = memoryview(data)
        while view:  # a raw file may take less than it is given
            view = view[file.write(view) :]
    assert reading.result() == data


def test_written_bytes_wait_for_flush(pipe: Pipe) -> None:
    with pipe.near.makefile("wb") as file:
        file.write(b"after")
        pipe.near.sendall(b"before ")
        file.flush()
        assert read_exactly(pipe.far, 12) == b"before after"


def test_writelines(pipe: Pipe) -> None:
    with pipe.near.makefile("wb") as file:
        file.writelines([b"first\n", b"second\n"])
    assert read_exactly(pipe.far, 13) == b"first\nsecond\n"


@pytest.mark.parametrize("mode", ["rb", "r"])
def test_writing_to_a_reader(pipe: Pipe, mode: Any) -> None:
    encoding = None if "b" in mode else "utf-8"
    content: Any = "x" if mode == "r" else b"x"
    with pipe.near.makefile(mode, encoding=encoding) as file:
        with pytest.raises(io.UnsupportedOperation):
            file.write(content)
        assert not file.writable()


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_reading_from_a_writer(pipe: Pipe, mode: Any) -> None:
    encoding = None if "b" in mode else "utf-8"
    with pipe.near.makefile(mode, encoding=encoding) as file:
        with pytest.raises(io.UnsupportedOperation):
            file.read(1)
        assert not file.readable()


@pytest.mark.parametrize("buffering", [0, None])
def test_both_directions_in_one_file(pipe: Pipe, buffering: Any) -> None:
    with pipe.near.makefile("rwb", buffering) as file:
        for number in range(20):
            file.write(b"question %d\n" % number)
            file.flush()
            assert pipe.far.recv(1024) == b"question %d\n" % number
            pipe.far.sendall(b"answer %d\n" % number)
            assert file.readline() == b"answer %d\n" % number


def test_text(pipe: Pipe) -> None:
    with (
        pipe.near.makefile("rw", encoding="utf-8", newline="\n") as near,
        pipe.far.makefile("rw", encoding="utf-8", newline="\n") as far,
    ):
        near.write("Grüße, 世界\n")
        near.flush()
        assert far.readline() == "Grüße, 世界\n"
        far.write("zurück\n")
        far.flush()
        assert near.readline() == "zurück\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "latin-1"])
def test_encoding(pipe: Pipe, encoding: str) -> None:
    with pipe.near.makefile("w", encoding=encoding) as file:
        file.write("Grüße\n")
    pipe.near.close()
    assert read_to_end(pipe.far) == "Grüße\n".encode(encoding)


def test_a_character_in_pieces(pipe: Pipe, crew: Crew) -> None:
    with pipe.far.makefile("r", encoding="utf-8") as file:
        reading = crew.start(file.readline)
        for byte in "ü世\n".encode():
            pipe.near.sendall(bytes([byte]))
        assert reading.result() == "ü世\n"


@pytest.mark.parametrize(
    ("errors", "expected"), [("replace", "a\ufffdb"), ("ignore", "ab"), ("strict", None)]
)
def test_decoding_errors(pipe: Pipe, errors: str, expected: str | None) -> None:
    pipe.near.sendall(b"a\xffb")
    pipe.near.close()
    with pipe.far.makefile("r", encoding="utf-8", errors=errors) as file:
        if expected is None:
            with pytest.raises(UnicodeDecodeError):
                file.read()
        else:
            assert file.read() == expected


@pytest.mark.parametrize(
    ("newline", "expected"),
    [
        (None, ["one\n", "two\n", "three"]),
        ("", ["one\r\n", "two\n", "three"]),
        ("\n", ["one\r\n", "two\n", "three"]),
        ("\r\n", ["one\r\n", "two\nthree"]),
    ],
)
def test_newlines_when_reading(pipe: Pipe, newline: str | None, expected: list[str]) -> None:
    pipe.near.sendall(b"one\r\ntwo\nthree")
    pipe.near.close()
    with pipe.far.makefile("r", encoding="utf-8", newline=newline) as file:
        assert list(file) == expected


def test_newlines_when_writing(pipe: Pipe) -> None:
    with pipe.near.makefile("w", encoding="utf-8", newline="\r\n") as file:
        file.write("one\ntwo\n")
    assert read_exactly(pipe.far, 10) == b"one\r\ntwo\r\n"


def test_closed_files_are_unusable(pipe: Pipe) -> None:
    file = pipe.near.makefile("rwb", buffering=0)
    file.close()
    calls: list[Callable[[], Any]] = [
        file.readable,
        file.writable,
        file.seekable,
        file.fileno,
        lambda: file.read(1),
        lambda: file.write(b"x"),
        lambda: file.readinto(bytearray(1)),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()


def test_files_of_several_threads(pipe: Pipe, crew: Crew) -> None:
    """A reader and a writer of one end, each in a thread with a file of its own."""
    lines = [b"line %d\n" % number for number in range(500)]

    def echo() -> None:
        with pipe.far.makefile("rwb") as file:
            for line in file:
                file.write(line)
                file.flush()

    echoing = crew.start(echo)
    with pipe.near.makefile("rb") as reader, pipe.near.makefile("wb") as writer:
        for line in lines:
            writer.write(line)
            writer.flush()
            assert reader.readline() == line
        pipe.near.shutdown(1)
    echoing.result()
