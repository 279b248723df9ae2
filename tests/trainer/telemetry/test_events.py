"""An event says when, what, at which step, in which generation and by which rank."""

import json
import time
from pathlib import Path

from keepstep.trainer.telemetry.events import Events


def test_an_event_has_its_head_and_its_own_fields(tmp_path: Path) -> None:
    before = time.time()
    Events(tmp_path, rank=3).write("checkpoint", step=7, generation=2, path="p")
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert before <= event.pop("time") <= time.time()
    wanted = {"kind": "checkpoint", "step": 7, "generation": 2, "rank": 3, "path": "p"}
    assert event == wanted


def test_several_pens_write_one_file(tmp_path: Path) -> None:
    for rank in (0, 1):
        Events(tmp_path, rank=rank).write("failure", step=None, generation=0)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["rank"] for line in lines] == [0, 1]
    assert json.loads(lines[0])["step"] is None
