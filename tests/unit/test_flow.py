"""Flow control as arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxado.protocol.flow import ReceiveWindow, SendWindow
from tests.helpers.pure import consume


class TestReceiveWindow:
    def test_an_update_is_due_at_half(self) -> None:
        window = ReceiveWindow(100)
        window.left -= 100
        assert not consume(window, 49)
        assert consume(window, 1)
        assert window.grant() == 50
        assert window.left == 50
        assert not consume(window, 49)

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_a_window_of_next_to_nothing(self, size: int) -> None:
        """It must not run dry with an update never due."""
        window = ReceiveWindow(size)
        for _ in range(5):
            window.left -= size
            assert consume(window, size)
            assert window.grant() == size
            assert window.left == size

    def test_nothing_read_is_nothing_granted(self) -> None:
        window = ReceiveWindow(100)
        assert window.grant() == 0
        assert window.left == 100

    def test_an_update_that_was_due_is_of_all_that_was_read(self) -> None:
        window = ReceiveWindow(100)
        window.left -= 100
        consume(window, 60)
        consume(window, 20)
        assert window.grant() == 80
        assert window.grant() == 0


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 300), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=60)
)
def test_both_ends_agree(size: int, steps: list[tuple[int, int]]) -> None:
    """Bytes sent as the window allows, read at any pace: neither overrun nor standstill."""
    sender, receiver = SendWindow(size), ReceiveWindow(size)
    buffered = 0
    for send, read in steps:
        count = min(send, sender.left)
        sender.left -= count
        receiver.left -= count
        buffered += count
        assert receiver.left >= 0
        count = min(read, buffered)
        buffered -= count
        if consume(receiver, count):
            increment = receiver.grant()
            assert increment > 0
            sender.left += increment
        assert sender.left == receiver.left
        assert sender.left + buffered + receiver.read == size
        assert receiver.read * 2 < size or receiver.read == 0
    if not buffered:
        assert sender.left > 0, "everything was read, and the sender may not go on"
