"""One sink's thread: every line once, in order, whatever fails, hangs or dies."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keepstep.trainer.telemetry.sinks import feed as feeding
from keepstep.trainer.telemetry.sinks.feed import Feed
from keepstep.trainer.telemetry.sinks.place import Place
from keepstep.trainer.telemetry.sinks.process import deliver
from keepstep.trainer.telemetry.sinks.sink import Ending, Line, RunFacts, numbers
from keepstep.trainer.telemetry.sinks.tail import read_from


class Recorder:
    """A sink that remembers, and fails where it is told to."""

    replays = False

    def __init__(self, trouble: Callable[[str], None] = lambda _: None) -> None:
        self.trouble = trouble
        self.steps: list[int] = []
        self.kinds: list[str] = []
        self.ending: Ending | None = None
        self.opened: list[int] = []

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        self.trouble("open")
        self.opened.append(last_step)

    def metrics(self, lines: Sequence[Line]) -> None:
        self.trouble("metrics")
        self.steps += [line["step"] for line in lines]

    def events(self, lines: Sequence[Line]) -> None:
        self.kinds += [line["kind"] for line in lines]

    def finish(self, ending: Ending) -> None:
        self.ending = ending

    def close(self) -> None:
        self.trouble("close")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_FIRST_BACKOFF", 0.01)


def write(folder: Path, *steps: int, kinds: Sequence[str] = ()) -> None:
    for name, lines in (
        ("metrics", [{"step": step, "loss": 1.0} for step in steps]),
        ("events", [{"time": 1.0, "kind": kind, "step": 0, "generation": 0} for kind in kinds]),
    ):
        with (folder / f"{name}.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def fed(folder: Path, sink: Recorder, said: list[str | None] | None = None) -> Feed:
    facts = RunFacts(folder=folder, name="run", run_id="0" * 32)
    tell = (lambda _, reason: said.append(reason)) if said is not None else (lambda *_: None)
    return Feed("recorder", lambda: sink, facts, tell=tell, every_seconds=0.01)


def run_through(folder: Path, sink: Recorder, said: list[str | None] | None = None) -> None:
    feed = fed(folder, sink, said)
    feed.start()
    assert deliver([feed], Ending.finished, seconds=10.0, say=pytest.fail) == 0


def test_a_step_that_was_redone_is_told_once(tmp_path: Path) -> None:
    sink = Recorder()
    write(tmp_path, 1, 2, 3, 2, 3, 4, kinds=["start", "finish"])
    run_through(tmp_path, sink)
    assert sink.steps == [1, 2, 3, 4]
    assert sink.kinds == ["start", "finish"]
    assert sink.ending is Ending.finished


def test_the_next_job_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, kinds=["start"])
    run_through(tmp_path, Recorder())
    write(tmp_path, 2, 3, kinds=["start"])
    later = Recorder()
    run_through(tmp_path, later)
    assert (later.steps, later.kinds, later.opened) == ([3], ["start"], [2])


def test_a_sink_that_fails_is_said_once_and_gets_everything_later(tmp_path: Path) -> None:
    left = [3]

    def trouble(where: str) -> None:
        if where == "metrics" and left[0]:
            left[0] -= 1
            raise ConnectionError("no route")

    sink, said = Recorder(trouble), list[str | None]()
    write(tmp_path, 1, 2, kinds=["start"])
    run_through(tmp_path, sink, said)
    assert sink.steps == [1, 2]
    assert sink.kinds == ["start"]  # delivered before the failure, and not again
    assert said == ["ConnectionError: no route", None]


def test_a_sink_that_cannot_even_close_is_tried_again(tmp_path: Path) -> None:
    fails = iter([True, True])

    def trouble(where: str) -> None:
        if where in ("open", "close") and next(fails, False):
            raise OSError(where)

    sink = Recorder(trouble)
    write(tmp_path, 1)
    feed = fed(tmp_path, sink)
    feed.start()
    deadline = time.monotonic() + 10
    while not sink.steps and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sink.steps == [1]
    feed.end(Ending.failed)
    feed.join(10)


def test_one_that_hangs_delays_neither_the_others_nor_the_end(tmp_path: Path) -> None:
    hang = threading.Event()
    stuck, good = Recorder(lambda _: hang.wait(30) and None), Recorder()
    write(tmp_path, 1, 2)
    feeds = [fed(tmp_path, stuck), fed(tmp_path, good)]
    feeds[1].sink_name = "other"
    for feed in feeds:
        feed.start()
    said: list[str] = []
    begun = time.monotonic()
    assert deliver(feeds, Ending.finished, seconds=0.5, say=said.append) == 1
    assert time.monotonic() - begun < 3
    assert good.steps == [1, 2]
    assert said == [
        "recorder: not all was delivered within telemetry.feed.grace_seconds=0.5; keepstep publish "
        "RUN sends the rest"
    ]
    hang.set()


def test_a_line_that_is_being_written_waits_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n{"step"')
    piece = read_from(path, 0)
    assert piece.lines == [{"step": 1}, {"step": 2}]
    assert read_from(path, piece.offset).lines == []
    with path.open("a") as file:
        file.write(": 3}\n")
    assert read_from(path, piece.offset).lines == [{"step": 3}]


def test_a_long_file_comes_in_pieces_and_a_shorter_one_is_another(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(100)))
    found, offset = [], 0
    while (piece := read_from(path, offset, most_bytes=64)).offset > offset:
        found += [line["step"] for line in piece.lines]
        offset = piece.offset
    assert found == list(range(100))
    path.write_text('{"step": 7}\n')
    assert read_from(path, offset).lines == [{"step": 7}]


def test_a_place_that_cannot_be_read_is_the_begin(tmp_path: Path) -> None:
    Place(metrics=5, step=2, memory={"id": "x"}).keep(tmp_path, "one")
    assert Place.read(tmp_path, "one") == Place(metrics=5, step=2, memory={"id": "x"})
    (tmp_path / "sinks" / "one.json").write_text('{"metrics": 5, "odd": 1}')
    assert Place.read(tmp_path, "one") == Place()


def test_the_numbers_of_a_line_are_flat_and_finite() -> None:
    line = {"step": 3, "loss": 1, "mfu": None, "bad": float("nan"), "on": True, "data": {"a": 2.0}}
    assert numbers(line) == {"loss": 1.0, "data/a": 2.0}
