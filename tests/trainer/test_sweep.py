"""The end of a sweep: who was best, who failed, and what is kept of it."""

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from keepstep.trainer.sweep import Outcome, Sweep, outcome_of, ranked

DONE = Outcome(job=0, overrides=["optim.lr=0.1"], code=0, folder="runs/a", final_loss=2.0)


def test_the_best_is_by_held_out_loss_where_all_have_one() -> None:
    jobs = [
        replace(DONE, job=0, eval_loss=1.5, final_loss=0.1),
        replace(DONE, job=1, eval_loss=1.2, final_loss=0.9),
        replace(DONE, job=2, code=1, eval_loss=None, final_loss=None),
    ]
    assert [one.job for one in ranked(jobs)] == [1, 0, 2]


def test_the_best_is_by_the_last_loss_where_one_has_no_other() -> None:
    jobs = [replace(DONE, job=0, eval_loss=0.1, final_loss=3.0), replace(DONE, job=1)]
    assert [one.job for one in ranked(jobs)] == [1, 0]


def test_a_failed_job_is_never_the_best_and_has_its_line_and_reason(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep")
    refused = Outcome(job=1, overrides=["train.steps=0"], code=2, reason="train.steps: found [0]")
    for one in (refused, replace(DONE, job=2, code=75)):
        sweep.note(one)
    page = io.StringIO()
    found = sweep.close(Console(file=page, width=120))
    assert [one.code for one in found] == [2, 75]
    assert "best" not in page.getvalue()
    assert "job 1: train.steps: found [0]\n" in page.getvalue()
    assert [row["best"] for row in json.loads((sweep.folder / "sweep.json").read_text())] == [
        False,
        False,
    ]


def test_the_same_command_has_the_same_folder_and_forgets_its_earlier_jobs(
    tmp_path: Path,
) -> None:
    assert Sweep.of(["-m", "a=1,2"]).folder == Sweep.of(["a=1,2", "-m"]).folder
    assert Sweep.of(["-m", "a=1,2"]).folder != Sweep.of(["-m", "a=1,3"]).folder
    sweep = Sweep(tmp_path)
    sweep.note(DONE)
    sweep.open()
    assert sweep.close(Console(file=io.StringIO())) == []


def test_numbers_of_an_earlier_success_are_not_those_of_a_failure(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"final_loss": 1.0, "goodput": 0.5}')
    assert outcome_of(0, [], 0, tmp_path).final_loss == 1.0
    assert outcome_of(0, [], 1, tmp_path).final_loss is None
