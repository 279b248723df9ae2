"""Lines are told once each, whole, in the order of time."""

from pathlib import Path

from keepstep.trainer.telemetry.files import append_line
from keepstep.trainer.telemetry.reading.follow import Follower, Lines, told


def test_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    assert lines.read() == []
    path.write_text('{"step": 1}\n{"st')
    assert lines.read() == [{"step": 1}]
    assert lines.read() == []
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert lines.read() == [{"step": 2}]


def test_metrics_and_events_come_in_the_order_of_time(tmp_path: Path) -> None:
    for step, moment in ((1, 10.0), (2, 30.0)):
        append_line(tmp_path / "metrics.jsonl", {"step": step, "time": moment})
    for kind, moment in (("failure", 20.0), ("energy", 25.0)):
        append_line(tmp_path / "events.jsonl", {"kind": kind, "step": 1, "time": moment})
    assert [line.get("kind") for line in Follower(tmp_path).read()] == [None, "failure", None]


def test_a_step_and_an_event_are_one_line_each() -> None:
    step = told({"step": 3, "time": 0.0, "loss": 2.5, "tokens_per_second": 1234.0, "mfu": None})
    assert step.split("  ", 1)[1] == "step 3  loss 2.5000  tokens/s 1,234"
    event = {"kind": "failure", "time": 0.0, "step": 3, "generation": 0, "rank": 1}
    said = told({**event, "cause": "killed", "reason": "killed by SIGKILL"})
    assert said.split("  ", 1)[1] == "failure  step 3  rank 1  killed by SIGKILL  cause killed"
