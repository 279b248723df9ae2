"""Small files of a run: lines appended whole by several processes, files replaced whole."""

import json
from pathlib import Path

import pytest
from support.world import run_world

from keepstep.trainer.telemetry.files import append_line, write_atomically


def test_lines_are_appended_in_order_as_json(tmp_path: Path) -> None:
    for step in (1, 2):
        append_line(tmp_path / "x.jsonl", {"step": step, "text": "two\nlines"})
    found = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert found == [{"step": 1, "text": "two\nlines"}, {"step": 2, "text": "two\nlines"}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path, value: float) -> None:
    append_line(tmp_path / "x.jsonl", {"loss": value, "norm": 0.5})
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"loss": None, "norm": 0.5}


def test_several_processes_write_one_file_without_tearing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"

    def body(rank: int) -> None:
        for number in range(200):
            append_line(path, {"rank": rank, "number": number, "pad": "x" * 500})

    run_world(4, body, join=False)
    found = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert len(found) == 800
    for rank in range(4):
        assert [one["number"] for one in found if one["rank"] == rank] == list(range(200))


def test_a_line_that_a_kill_tore_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    for step in (3, 4):
        append_line(tmp_path / "x.jsonl", {"step": step})
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1}', '{"step": 2, "lo', '{"step": 3}', '{"step": 4}']


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "summary.json", "old")
    write_atomically(tmp_path / "summary.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("summary.json", "new")
    ]


def test_a_reader_sees_the_old_text_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "x"
    texts = ["a" * 100_000, "b" * 100_000]
    write_atomically(path, texts[0])

    def body(rank: int) -> set[str]:
        if rank == 0:
            for number in range(60):
                write_atomically(path, texts[number % 2])
            return set()
        return {path.read_text() for _ in range(200)}

    seen = run_world(2, body, join=False)[1]
    assert seen
    assert seen <= set(texts)
