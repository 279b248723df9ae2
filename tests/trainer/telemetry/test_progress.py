"""The progress line: rewritten in place on a terminal, seldom and plain elsewhere."""

import io

import pytest

from keepstep.trainer.telemetry import progress
from keepstep.trainer.telemetry.progress import Console, duration


class Screen(io.StringIO):
    """A terminal of one line: answers what a person sees after all that was written."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        lines = []
        for line in self.getvalue().split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            lines.append("".join(cells).rstrip())
        return lines


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_terminal_shows_the_newest_line_alone(clock: Clock) -> None:
    screen = Screen()
    console = Console(screen, seconds=2.0, enabled=True)
    for words in ("a long line of step 1", "step 2"):
        console.show(words)
        clock.now += 1
    assert screen.shown() == ["step 2"]


def test_words_on_a_terminal_stay_above_the_line(clock: Clock) -> None:
    screen = Screen()
    console = Console(screen, seconds=2.0, enabled=True)
    console.show("step 1 of many")
    console.say("saved")
    clock.now += 1
    console.show("step 2")
    assert screen.shown() == ["saved", "step 2"]


def test_a_terminal_is_written_ten_times_a_second_at_most(clock: Clock) -> None:
    screen = Screen()
    console = Console(screen, seconds=2.0, enabled=True)
    for step in range(100):
        console.show(f"step {step}")
        clock.now += 0.01
    assert 9 <= screen.getvalue().count("\r") <= 11


def test_elsewhere_a_line_is_written_each_so_many_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(stream, seconds=2.0, enabled=True)
    for step in range(40):
        console.show(f"step {step}")
        clock.now += 0.125
    assert stream.getvalue().splitlines() == ["step 0", "step 16", "step 32"]


def test_a_pause_of_nothing_writes_every_step(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(stream, seconds=0.0, enabled=True)
    for step in range(3):
        console.show(f"step {step}")
    assert stream.getvalue().splitlines() == ["step 0", "step 1", "step 2"]


@pytest.mark.parametrize("stream", [io.StringIO(), Screen()], ids=["file", "terminal"])
def test_the_last_line_is_always_written_and_ended(clock: Clock, stream: io.StringIO) -> None:
    console = Console(stream, seconds=60.0, enabled=True)
    console.show("step 1")
    console.show("step 2", is_last=True)
    console.say("done")
    assert stream.getvalue().endswith("step 2\ndone\n")


def test_a_console_that_is_off_writes_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(stream, seconds=0.0, enabled=False)
    console.show("step 1", is_last=True)
    console.say("done")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.6, "1h00m"),
        (7620, "2h07m"),
        (360_000, "100h00m"),
    ],
)
def test_a_duration_is_said_as_a_person_says_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
