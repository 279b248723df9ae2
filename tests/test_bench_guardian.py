"""The bench of the guardian: what it measures is kept by kind, beside what was wanted."""

import json
from pathlib import Path

import pytest
from support.scripts import load_script

bench = load_script("bench_guardian")


def test_a_table_holds_the_spread_of_each_number_and_what_one_was_to_be() -> None:
    runs = [
        {"kind": "memory", "turn": turn, "load": 1.0, "mb": mb} for turn, mb in enumerate((3, 9, 4))
    ]
    assert bench.table(runs) == {
        "memory": {"runs": 3, "mb": {"median": 4, "min": 3, "max": 9, "wanted": 400.0}}
    }


@pytest.mark.slow
def test_a_hang_is_measured_and_other_kinds_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    other = {"kind": "memory", "turn": 0, "load": 1.0, "mb": 300.0}
    out.write_text(json.dumps({"runs": [other]}))
    bench.main(["--kinds", "hang", "--turns", "1", "--out", str(out)])
    found = json.loads(out.read_text())
    kept, run = found["runs"]
    assert kept == other
    assert 0 < run["found_seconds_over"] < run["step_seconds_over"]
    assert set(found["table"]) == {"memory", "hang"}
