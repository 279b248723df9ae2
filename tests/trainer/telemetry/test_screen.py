"""The live display: words stay above it, and the cursor is where it was, whoever dies or writes."""

import os
import pty
import select
import threading
from typing import Any

import pytest
from support.terminal import Terminal

from keepstep.trainer.telemetry.progress import Console, Relay, Shown
from keepstep.trainer.telemetry.screen import Screen
from keepstep.trainer.telemetry.speaker import speaker_of

FRAME = (
    ("step 30/100", "left 3m05s"),
    ("loss 2.5000", "norm 1.00", "lr 1.00e-01"),
    ("tokens/s 1,234", "mfu 41.2%", "data stall 3.0%", "goodput 97.0%"),
)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(step: int) -> Shown:
    return Shown(
        step=step,
        steps=100,
        loss=2.5,
        grad_norm=1.0,
        lr=0.1,
        tokens_per_second=1234.0,
        mfu=0.412,
        stall=0.03,
        goodput=0.97,
        left_seconds=185.0,
    )


def draw(screen: Screen, step: int) -> None:
    screen._drawn_at = float("-inf")
    screen.show(shown(step))


def holds_frame(lines: list[str]) -> bool:
    return len(lines) == 3 and all(
        all(word in line for word in words) for line, words in zip(lines, FRAME, strict=True)
    )


def test_the_newest_frame_stands_alone_and_the_cursor_waits_at_its_begin() -> None:
    stream = Terminal()
    screen = Screen(stream)
    for step in (10, 20, 30):
        draw(screen, step)
    lines, cursor = stream.see()
    assert holds_frame(lines)
    assert cursor == (0, 0)
    assert "\x1b[?25l" not in stream.getvalue()  # a hidden cursor would outlive a kill


def test_words_stay_above_the_frame_in_their_order() -> None:
    stream = Terminal()
    screen = Screen(stream)
    draw(screen, 10)
    screen.say("saved step 10: 1.0 KiB in 0.10 s")
    screen.say("recovered in place within 0.2 s: generation 1")
    draw(screen, 30)
    lines, cursor = stream.see()
    assert [line[9:] for line in lines[:2]] == [
        "saved step 10: 1.0 KiB in 0.10 s",
        "recovered in place within 0.2 s: generation 1",
    ]
    assert holds_frame([lines[2], lines[3].replace("recoveries 1", ""), lines[4]])
    assert "recoveries 1" in lines[3]
    assert cursor == (2, 0)


def test_what_others_write_stays_too() -> None:
    stream = Terminal()
    screen = Screen(stream)
    draw(screen, 10)
    stream.write("a warning of somebody else\n")
    draw(screen, 30)
    lines, _ = stream.see()
    assert lines[0].startswith("a warning of somebody else")
    assert holds_frame(lines[1:])


def test_frames_are_drawn_five_times_a_second_at_most() -> None:
    stream = Terminal()
    screen = Screen(stream)
    draw(screen, 10)
    before = len(stream.getvalue())
    for step in range(11, 20):
        screen.show(shown(step))
    assert len(stream.getvalue()) == before


def test_the_last_frame_stays_and_what_follows_comes_below() -> None:
    stream = Terminal()
    screen = Screen(stream)
    draw(screen, 10)
    screen.show(shown(30), is_last=True)
    screen.say("  steps 30")
    screen.close()
    lines, cursor = stream.see()
    assert holds_frame(lines[:3])
    assert lines[3:] == ["  steps 30"]
    assert cursor == (4, 0)


def test_closing_takes_the_frame_off() -> None:
    stream = Terminal()
    screen = Screen(stream)
    draw(screen, 10)
    screen.close()
    screen.close()
    assert stream.see() == ([], (0, 0))


def test_a_narrow_terminal_cuts_lines_and_wraps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    stream = Terminal()
    screen = Screen(stream)
    draw(screen, 30)
    lines, cursor = stream.see()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 44
    assert cursor == (0, 0)


def test_no_thread_is_started() -> None:
    before = threading.active_count()
    screen = Screen(Terminal())
    draw(screen, 10)
    assert threading.active_count() == before


def test_a_terminal_that_takes_no_more_is_not_waited_for() -> None:
    mine, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        screen = Screen(stream)
        os.set_blocking(theirs, False)
        filled = 0
        while select.select([], [theirs], [], 0)[1]:
            filled += os.write(theirs, b"x" * 256)
        os.set_blocking(theirs, True)
        draw(screen, 10)  # would block for ever
        screen._shown = None
        os.set_blocking(mine, False)
        assert len(os.read(mine, 2**20)) <= filled
    os.close(mine)


def test_who_speaks_how(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Guardian:
        def tell(self, kind: str, **fields: object) -> None: ...
        def offer(self, kind: str, **fields: object) -> None: ...

    stream = Terminal()
    assert isinstance(speaker_of(stream, seconds=1.0, enabled=True), Screen)
    assert isinstance(speaker_of(stream, seconds=1.0, enabled=True, guardian=Guardian()), Relay)
    assert isinstance(speaker_of(stream, seconds=1.0, enabled=False), Console)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(speaker_of(stream, seconds=1.0, enabled=True), Console)
