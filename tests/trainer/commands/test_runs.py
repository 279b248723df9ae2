"""`keepstep runs` and `tail` of a real run: while it lives, killed, preempted, finished."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from support.job import Job, Ran, overrides, start_job, tiny
from typer.testing import CliRunner

from keepstep.trainer.commands.app import app
from keepstep.trainer.errors import ConfigError
from keepstep.trainer.telemetry.reading.status import State, status_of


def said(*words: str) -> str:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_finished_run_is_a_row_and_a_tail(recovered: Ran) -> None:
    row = said("runs", str(recovered.folder.parent)).splitlines()[1].split()
    assert row[:3] == ["recovered", "finished", "60/60"]
    assert row[-4:] == ["60", "all", "steps", "done"]
    lines = said("tail", str(recovered.folder), "-n", "3").splitlines()
    assert len(lines) == 4
    assert lines[2].split("  ")[1:3] == ["end", "step 60"]
    assert lines[3] == "finished: all steps done"
    assert said("tail", str(recovered.folder), "-n", "0") == "finished: all steps done\n"


def test_what_a_run_leaves_has_times_ledgers_and_memory(recovered: Ran) -> None:
    lines = [json.loads(x) for x in (recovered.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["time"] > 0 for line in lines)
    assert {line["generation"] for line in lines} == {0, 1}
    sampled = [line for line in lines if "ledger" in line]
    assert sampled[0] is lines[0]
    assert sampled[-1] is lines[-1]
    assert all(line["memory"]["peak_rss_bytes"] > 10_000_000 for line in sampled)
    since = json.loads((recovered.folder / "ledger.json").read_text())["since"]
    for line in sampled:  # every second since the run's begin is booked to one account
        booked = sum(value for key, value in line["ledger"].items() if key != "until")
        assert booked == pytest.approx(line["ledger"]["until"] - since, abs=0.05)


def wait_for_steps(job: Job, folder: Path, count: int) -> None:
    job.until(lambda: len(Ran(folder).losses) >= count, 30.0, f"{count} steps")


def test_a_live_run_a_killed_one_and_a_preempted_one_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    words = overrides(folder, steps=10_000, save_every=5)
    with start_job(1, words, folder=tmp_path, recipe=tiny(0.01)) as job:
        wait_for_steps(job, folder, 6)
        running = status_of(folder)
        job.kill_tree()
    assert (running.state, running.why) == (State.running, "")
    lost = status_of(folder)
    assert lost.state is State.lost
    assert "gone without a word" in lost.why
    assert lost.checkpoint is not None
    with start_job(1, words, folder=tmp_path, recipe=tiny(0.01)) as job:
        wait_for_steps(job, folder, lost.step + 3)
        os.kill(job.guardians[0], signal.SIGTERM)
        assert job.wait() == [75]
    preempted = status_of(folder)
    assert preempted.state is State.preempted
    assert preempted.why == f"asked to end by SIGTERM, saved at step {preempted.step}"
    assert "preempted" in said("runs", str(folder))


def test_a_bug_is_the_reason_that_a_run_failed(tmp_path: Path) -> None:
    def broken(config: object) -> object:
        raise RuntimeError("no such thing as a free lunch")

    folder = tmp_path / "run"
    for more in ("recovery.enabled=true", "recovery.enabled=false"):
        shutil.rmtree(folder, ignore_errors=True)
        with start_job(1, overrides(folder, more), folder=tmp_path, recipe=broken) as job:
            assert job.wait() == [1]
        found = status_of(folder)
        assert found.state is State.failed
        assert found.why.endswith("RuntimeError: no such thing as a free lunch")


def test_a_table_is_watched_on_a_terminal_only(recovered: Ran) -> None:
    words = ["runs", str(recovered.folder), "--watch"]
    with pytest.raises(ConfigError, match="--watch: found no terminal"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    for words, wanted in (
        (("runs", str(tmp_path / "none")), "found no such folder"),
        (("runs", str(tmp_path)), "found no run in it"),
        (("tail", str(tmp_path)), "found no run, needed a run's folder"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            CliRunner().invoke(app, words, catch_exceptions=False)
