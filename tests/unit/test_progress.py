import os
import pty
import termios
from contextlib import suppress
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtune.files.progress import PROGRESS_LINE, SECONDS_BETWEEN_LINES, Progress


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pipe_gets_each_line_at_once_and_whole() -> None:
    read, write = os.pipe()
    clock = Clock()
    stream = os.fdopen(write, "w", encoding="utf-8")
    with stream, Progress("train", 100, "update", stream=stream, clock=clock) as progress:
        clock.now = 84
        progress.update(40, reward="0.612")
        assert os.read(read, 1000) == b"train: 40/100 updates, 2.1 s each, 2 min 6 s left, reward 0.612\n"
        clock.now = 93.9
        progress.update(1, reward="0.613")
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 1000)
        clock.now = 94
        progress.update(1, reward="0.614")
        assert os.read(read, 1000) == b"train: 42/100 updates, 2.2 s each, 2 min 10 s left, reward 0.614\n"
        clock.now = 100
        progress.update(58, reward="0.7")
    assert os.read(read, 1000) == b"train: 100/100 updates, 1 s each, reward 0.7\n"
    os.close(read)


def test_each_tenth_of_quick_work_has_one_line() -> None:
    stream, clock = StringIO(), Clock()
    with Progress("score", 1000, "image", stream=stream, clock=clock) as progress:
        for _ in range(1000):
            clock.now += 0.001
            progress.update()
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"score: {done}/1000 images" for done in range(100, 1001, 100)]
    assert lines[2] == "score: 300/1000 images, 0.001 s each, 1 s left"


def test_what_ends_early_says_how_far_it_came() -> None:
    stream = StringIO()
    with suppress(KeyboardInterrupt), Progress("train", 100, "update", stream=stream, clock=Clock()) as progress:
        progress.update(3)
        raise KeyboardInterrupt
    assert stream.getvalue() == "train: 3/100 updates, 0 s each, 0 s left\n"


def test_what_was_done_before_does_not_make_the_rest_seem_quick() -> None:
    stream, clock = StringIO(), Clock()
    with Progress("evaluate", 100, "image", done=49, stream=stream, clock=clock) as progress:
        clock.now = 20
        progress.update(1)
    assert stream.getvalue() == "evaluate: 50/100 images, 20 s each, 16 min 40 s left\n"


def test_nothing_left_to_do_is_said_too() -> None:
    stream = StringIO()
    with Progress("train", 100, "update", done=100, stream=stream):
        pass
    with Progress("score", 0, "image", stream=stream):
        pass
    assert stream.getvalue() == "train: 100/100 updates\nscore: 0/0 images\n"


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 100)), max_size=40))
def test_lines_are_few_and_the_last_one_tells_the_end(updates: list[tuple[int, float]]) -> None:
    stream, clock = StringIO(), Clock()
    total = sum(count for count, _ in updates)
    with Progress("train", total, "update", stream=stream, clock=clock) as progress:
        for count, seconds in updates:
            clock.now += seconds
            progress.update(count, reward="0.5")
    lines = stream.getvalue().splitlines()
    assert all(PROGRESS_LINE.fullmatch(line) for line in lines)
    assert lines[-1].startswith(f"train: {total}/{total} updates")
    assert len(lines) <= 11 + clock.now / SECONDS_BETWEEN_LINES


def test_a_terminal_gets_one_bar_that_moves() -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (30, 100))
    stream = os.fdopen(follower, "w", encoding="utf-8")
    shown = b""
    with stream, Progress("train", 4, "update", stream=stream) as progress:
        progress.update(4, reward="0.612")
        progress.close()
        while not shown.endswith(b"\n"):
            shown += os.read(leader, 10_000)
    os.close(leader)
    assert shown.count(b"\n") == 1
    assert shown.count(b"\r") > 2
    assert b"train: 100%|" in shown
    assert b"4/4" in shown
    assert b"reward=0.612" in shown


def test_a_terminal_without_a_size_gets_lines() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        with Progress("train", 4, "update", stream=stream, clock=Clock()) as progress:
            progress.update(4)
        assert os.read(leader, 1000) == b"train: 4/4 updates, 0 s each\r\n"
    os.close(leader)
