"""The fuzzer's target over its corpus, and over what a few changes make of that."""

from __future__ import annotations

import random

import pytest

from muxado.protocol.receiving import Receiver

from . import corpus, target


def changed(data: bytes, rng: random.Random) -> bytes:
    """``data`` with a few bytes changed, a part left out or doubled, or cut short."""
    text = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text) + 1)
        part = text[place : place + rng.randint(1, 12)]
        how = rng.randrange(4)
        if how == 0 and place < len(text):
            text[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            del text[place : place + len(part)]
        elif how == 2:
            text[place:place] = part
        else:
            text[place : place + 1] = bytes([rng.choice([0, 1, 8, 255])])
    return bytes(text)


@pytest.mark.parametrize("version", [1, 2])
def test_the_corpus(version: int) -> None:
    inputs = corpus.read(version)
    assert len(inputs) > 20
    for data in inputs:
        target.run(version, data)


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_recorded(version: int) -> None:
    for data in corpus.recorded(version):
        target.run(version, data)


@pytest.mark.parametrize("version", [1, 2])
def test_the_corpus_changed(version: int) -> None:
    rng = random.Random(version)
    inputs = [data for data in corpus.read(version) if len(data) < 1000]
    for _ in range(600):
        target.run(version, changed(rng.choice(inputs), rng))


@pytest.mark.parametrize("version", [1, 2])
def test_the_target_finds_faults(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that is not counted down is noticed by what the corpus reaches."""
    on_data = Receiver.on_data

    def generous(self: Receiver, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        on_data(self, stream_id, length, piece, fin)
        stream = self._streams.get(stream_id)
        if stream is not None and length:
            stream.receive.left += 1

    monkeypatch.setattr(Receiver, "on_data", generous)
    with pytest.raises(AssertionError):
        for data in corpus.read(version):
            target.run(version, data)
