"""What the loop reports lands in the run's folder, from rank 0 alone, and on the screen."""

import contextlib
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.training import events, life_of, lines, summary

from keepstep.checkpoint import Damage, Restored
from keepstep.trainer.recovery.books import Account
from keepstep.trainer.recovery.life import Life
from keepstep.trainer.recovery.line import Line
from keepstep.trainer.state import Progress
from keepstep.trainer.telemetry.progress import Console
from keepstep.trainer.telemetry.reporter import Reporter, StepReport


class Desk:
    """A reporter of one rank, with what it shows."""

    def __init__(self, folder: Path, rank: int = 0, model_flops: float | None = None) -> None:
        self.folder = folder
        self.stream = io.StringIO()
        self.heard, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        plain = life_of(rank, 2, str(folder / "store"))
        self.life = Life(
            world=plain.world,
            generation=4,
            store=plain.store,
            page=plain.page,
            started=plain.started,
            line=Line(self.theirs),
        )
        console = Console(self.stream, seconds=0.0, enabled=rank == 0)
        self.reporter = Reporter(folder, console, self.life, steps=3, model_flops=model_flops)

    def close(self) -> None:
        self.heard.close()
        self.theirs.close()

    def step(self, step: int, **changes: Any) -> None:
        values = {
            "loss": 4.0 / step,
            "grad_norm": 1.0,
            "grad_norm_score": None,
            "lr": 0.1,
            "tokens": 100 * step,
        }
        seconds = {"step_seconds": 0.5, "data_seconds": 0.1, "snapshot_seconds": 0.0}
        causes = {"data_causes": {"network": 0.1}}
        rate = {"tokens_per_second": 200.0}
        self.reporter.step(
            StepReport(step=step, **{**values, **seconds, **causes, **rate, **changes})
        )

    def finish(self, *, data: dict[str, float] | None = None, **extra: object) -> None:
        progress = Progress(step=3, samples=30, tokens=300, skips=1)
        self.reporter.books.open(None, begun=100.0)
        self.reporter.books.book(Account.step, now=102.0)
        self.reporter.finish(
            progress,
            eval_loss=1.5,
            state_digest="abc",
            parameters=12,
            data=data or {},
            extra=extra,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with contextlib.closing(Desk(tmp_path)) as opened:
        yield opened


def test_a_step_is_a_line_of_metrics_and_a_line_of_progress(desk: Desk) -> None:
    desk.step(1)
    (line,) = lines(desk.folder, "metrics")
    assert (line["step"], line["loss"], line["mfu"]) == (1, 4.0, None)
    shown = desk.stream.getvalue()
    wanted = (
        "step 1/3  loss 4.0000  norm 1.00  lr 1.00e-01  200 tokens/s  data stall 20.0%  left 1s"
    )
    assert shown.startswith(wanted)


def test_the_time_left_follows_the_median_of_recent_steps(desk: Desk) -> None:
    for step, seconds in ((1, 100.0), (2, 0.5)):
        desk.step(step, step_seconds=seconds, data_seconds=0.0)
    assert desk.stream.getvalue().splitlines()[0].endswith("left 3m20s")
    assert desk.stream.getvalue().splitlines()[1].endswith("left 50s")


def test_mfu_is_the_rate_times_the_part_of_a_token(tmp_path: Path) -> None:
    with contextlib.closing(Desk(tmp_path, model_flops=0.002)) as desk:
        desk.step(1)
        assert lines(desk.folder, "metrics")[0]["mfu"] == pytest.approx(0.4)
        assert "mfu 40.0%" in desk.stream.getvalue()


def test_the_guardian_hears_of_the_first_step_only(desk: Desk) -> None:
    for step in (1, 2):
        desk.step(step)
    said = desk.heard.recv(4096).decode().splitlines()
    assert [json.loads(line) for line in said] == [{"kind": "stepped", "step": 1}]


def test_a_restore_names_the_damage_that_was_passed_over(desk: Desk) -> None:
    damage = Damage(path="c/step-8", file="rank-0.safetensors", reason="digest differs")
    restored = Restored(step=4, path="c/step-4", progress={}, lineage={}, damaged=[damage])
    desk.reporter.begin(4, restored)
    start, restore = lines(desk.folder, "events")
    assert (start["kind"], start["step"], start["generation"]) == ("start", 4, 4)
    assert restore["path"] == "c/step-4"
    wanted = {"path": "c/step-8", "file": "rank-0.safetensors", "reason": "digest differs"}
    assert restore["damaged"] == [wanted]
    assert "passed over: c/step-8/rank-0.safetensors: digest differs" in desk.stream.getvalue()
    assert "resumed at step 4 from c/step-4" in desk.stream.getvalue()


def test_a_fresh_start_restores_nothing(desk: Desk) -> None:
    desk.reporter.begin(0, None)
    assert [event["kind"] for event in lines(desk.folder, "events")] == ["start"]


def test_the_summary_counts_a_step_done_twice_once(desk: Desk) -> None:
    desk.reporter.begin(0, None)
    desk.step(1)
    desk.step(2, loss=9.0)
    desk.reporter.event("recovery", 1)
    desk.step(2)
    desk.step(3, tokens_per_second=500.0)
    desk.finish(text="Once upon", unigram_entropy_nats=6.0)
    found = summary(desk.folder)
    assert (found["steps"], found["final_loss"], found["eval_loss"]) == (3, 4.0 / 3, 1.5)
    assert (found["recoveries"], found["skips"], found["parameters"]) == (1, 1, 12)
    assert (found["tokens"], found["tokens_per_second"]) == (300, 200.0)
    assert (found["state_digest"], found["text"]) == ("abc", "Once upon")
    assert 0 < found["goodput"] <= 1
    assert events(desk.folder, "finish")[0]["state_digest"] == "abc"


def test_the_last_words_show_the_summary_the_text_and_the_folder(desk: Desk) -> None:
    desk.reporter.begin(0, None)
    desk.step(3)
    desk.finish(text="Once upon")
    said = desk.stream.getvalue()
    assert "  eval_loss              1.5000\n" in said
    assert "  text: Once upon\n" in said
    assert said.endswith(f"finished: {desk.folder}\n")


def test_other_ranks_write_and_show_nothing_but_tell_their_guardian(tmp_path: Path) -> None:
    with contextlib.closing(Desk(tmp_path, rank=1)) as desk:
        desk.reporter.begin(0, None)
        desk.step(1)
        desk.reporter.event("skip", 1)
        desk.reporter.say("words")
        desk.finish()
        assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == []
        assert desk.stream.getvalue() == ""
        assert b"stepped" in desk.heard.recv(4096)
        assert not desk.reporter.is_finished


def test_a_run_is_finished_once_its_summary_has_all_steps(desk: Desk) -> None:
    assert not desk.reporter.is_finished
    desk.reporter.begin(0, None)
    desk.step(3)
    desk.finish()
    assert desk.reporter.is_finished
    desk.reporter.steps = 4
    assert not desk.reporter.is_finished


def test_loads_of_experts_are_further_keys_of_a_line(desk: Desk) -> None:
    desk.step(1, router={"router_max_load": 1.5})
    desk.step(2)
    with_experts, without = lines(desk.folder, "metrics")
    assert with_experts["router_max_load"] == 1.5
    assert with_experts.keys() - without.keys() == {"router_max_load"}
    assert "router" not in without


def test_what_the_data_counted_is_in_its_lines_and_in_the_summary(desk: Desk) -> None:
    desk.reporter.begin(0, None)
    desk.step(2, data={"gets": 7})
    desk.step(3)
    desk.finish(data={"gets": 9})
    with_data, without = lines(desk.folder, "metrics")
    assert with_data["data"] == {"gets": 7}
    assert "data" not in without
    assert summary(desk.folder)["data"] == {"gets": 9}
    assert "gets" not in desk.stream.getvalue()
