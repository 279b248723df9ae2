"""What is shown of a run: plain lines, or messages to the guardian, who draws."""

import io
from typing import Any

import pytest

from keepstep.trainer.telemetry import progress
from keepstep.trainer.telemetry.progress import (
    Console,
    Relay,
    Shown,
    duration,
    hear,
    saved_words,
)


def shown(step: int, **more: Any) -> Shown:
    plain = {"steps": 100, "loss": 2.5, "grad_norm": 1.0, "lr": 0.1, "tokens_per_second": 1234.0}
    rest = {"mfu": None, "stall": 0.0, "goodput": 0.97, "left_seconds": 185.0}
    return Shown(step=step, **{**plain, **rest, **more})


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


class Teller:
    """A guardian's other end."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def tell(self, kind: str, **fields: object) -> None:
        self.told.append({"kind": kind, **fields})

    offer = tell


def steps(stream: io.StringIO) -> list[str]:
    return [line.split("/")[0] for line in stream.getvalue().splitlines()]


def test_a_state_is_one_line_with_what_is_known() -> None:
    line = shown(3).line()
    assert line == (
        "step 3/100  loss 2.5000  norm 1.00  lr 1.00e-01  1,234 tokens/s  goodput 97%  left 3m05s"
    )
    more = shown(3, mfu=0.412, stall=0.034, goodput=None).line()
    assert "tokens/s  mfu 41.2%  data stall 3.4%  left" in more


def test_a_line_is_written_each_so_many_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(stream, seconds=2.0, enabled=True)
    for step in range(40):
        console.show(shown(step))
        clock.now += 0.125
    assert steps(stream) == ["step 0", "step 16", "step 32"]


def test_a_pause_of_nothing_writes_every_step(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(stream, seconds=0.0, enabled=True)
    for step in range(3):
        console.show(shown(step))
    assert steps(stream) == ["step 0", "step 1", "step 2"]


def test_the_last_line_is_always_written(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(stream, seconds=60.0, enabled=True)
    console.show(shown(1))
    console.show(shown(2), is_last=True)
    console.say("done")
    assert steps(stream) == ["step 1", "step 2", "done"]


def test_a_console_that_is_off_writes_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(stream, seconds=0.0, enabled=False)
    console.show(shown(1), is_last=True)
    console.say("done")
    assert stream.getvalue() == ""


def test_a_relay_tells_five_states_a_second_the_last_one_and_all_words(clock: Clock) -> None:
    teller = Teller()
    relay = Relay(teller)
    for step in range(100):
        relay.show(shown(step))
        clock.now += 0.01
    relay.say("words")
    relay.show(shown(100), is_last=True)
    told = [one for one in teller.told if one["kind"] == "show"]
    assert 5 <= len(told) <= 7
    assert (told[-1]["shown"]["step"], told[-1]["is_last"]) == (100, True)
    assert {"kind": "say", "words": "words"} in teller.told


def test_what_was_relayed_is_shown_as_it_was(clock: Clock) -> None:
    teller, stream = Teller(), io.StringIO()
    relay, console = Relay(teller), Console(stream, seconds=0.0, enabled=True)
    relay.show(shown(7, mfu=0.5))
    relay.say("saved step 7")
    for message in teller.told:
        hear(console, message)
    hear(console, {"kind": "unheard of"})
    assert stream.getvalue() == f"{shown(7, mfu=0.5).line()}\nsaved step 7\n"


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


@pytest.mark.parametrize(
    ("count", "size"), [(12, "12 B"), (2048, "2.0 KiB"), (5 * 2**30, "5.0 GiB")]
)
def test_a_save_is_said_with_its_size(count: int, size: str) -> None:
    assert saved_words(7, count, 0.256) == f"saved step 7: {size} in 0.26 s"
