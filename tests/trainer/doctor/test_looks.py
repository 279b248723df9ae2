"""The looks themselves, on this very node: real disks, a real store, real ranks, real forks."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from support.ports import free_port
from support.seaweed import CREDENTIALS, rclone, seaweed
from support.world import run_world
from typer.testing import CliRunner

from keepstep.checkpoint import PlaceConfig, open_place
from keepstep.parallel import World
from keepstep.trainer.commands.app import app
from keepstep.trainer.compose import compose
from keepstep.trainer.doctor import Level, Report, examine
from keepstep.trainer.doctor.child import LateError, in_child
from keepstep.trainer.doctor.disk import existing, measure_disk
from keepstep.trainer.doctor.ranks import measure_ranks


def of(report: Report, subject: str) -> list[tuple[Level, str]]:
    return [(one.level, one.found) for one in report.findings if one.subject == subject]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[str], Path]:
    """What two ranks of a node found, and what the first one said meanwhile."""
    folder = tmp_path_factory.mktemp("doctor")
    port = free_port()

    def body(rank: int) -> tuple[Report, list[str]]:
        world = World(rank, 2, rank, 2, "127.0.0.1", port, has_agent_store=False)
        said: list[str] = []
        config = compose([f"run.dir={folder}/run", "train.batch_tokens=4096"])
        return examine(config, world, seconds=30, say=said.append), said

    first, other = run_world(2, body, join=False)
    assert not other[1]
    return first[0], first[1], folder


@pytest.mark.slow
def test_two_ranks_look_at_the_node_once_and_at_one_another(
    together: tuple[Report, list[str], Path],
) -> None:
    report, said, _ = together
    assert said == ["GPUs", "model", "recovery", "disk", "ranks"]
    assert report.ranks == 2
    assert report.seconds < 30
    assert {one.area for one in report.findings} == {
        *("software", "node", "GPUs", "recovery", "disk", "ranks")
    }
    (gpu,) = of(report, "GPUs")
    assert gpu == (Level.ok, "no GPU; ranks run on the CPU, by gloo")


@pytest.mark.slow
def test_the_ways_of_recovery_were_tried(together: tuple[Report, list[str], Path]) -> None:
    assert of(together[0], "in place") == [(Level.ok, "works")]
    (server,) = of(together[0], "warm server")
    assert server[0] is Level.ok, server


@pytest.mark.slow
def test_what_the_ranks_measured_is_there_in_numbers(
    together: tuple[Report, list[str], Path],
) -> None:
    measured = together[0].measured
    assert len(measured["flops"]) == 2
    assert all(speed > 1e8 for speed in measured["flops"])
    assert abs(measured["skew_seconds"][1]) < 0.1  # it is the same clock
    assert {one["name"] for one in measured["collectives"]} == {"all_reduce", "all_gather"}
    (pair,) = measured["pairs"]
    assert pair[:2] == [0, 1]
    assert pair[2] > 1e6
    json.dumps(measured)


@pytest.mark.slow
def test_nothing_is_left_where_the_disk_was_tried(
    together: tuple[Report, list[str], Path],
) -> None:
    report, _, folder = together
    assert list(folder.iterdir()) == []
    assert of(report, "speed")[0][1].startswith(f"{folder}/run: writes ")


def test_ranks_without_time_stop_together_and_say_so() -> None:
    cpu = torch.device("cpu")
    for found in run_world(2, lambda _: measure_ranks(cpu, seconds=0.0)):
        assert (found.collectives, found.pairs, found.all_pairs) == ((), {}, False)


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_above_it(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    found = measure_disk(tmp_path / "a" / "b")
    assert found.written > 1e6
    assert found.read > 1e6
    assert list(tmp_path.iterdir()) == []


def test_what_hangs_is_left_at_its_deadline() -> None:
    begun = time.monotonic()
    with pytest.raises(LateError, match=r"found no answer within 0 s"):
        in_child(lambda: str(time.sleep(60)), seconds=0.3)
    assert time.monotonic() - begun < 5
    with pytest.raises(LateError, match="ended without an answer"):
        in_child(lambda: os._exit(3), seconds=30)
    assert in_child(lambda: "x" * 200_000, seconds=30) == "x" * 200_000


def doctor(*words: str) -> tuple[int, str, str]:
    """The command in a fork: code, standard output, standard error."""

    def body(_: int) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["doctor", *words])
        return done.exit_code, done.stdout, repr(done.exception)

    found: tuple[int, str, str] = run_world(1, body, join=False)[0]
    return found


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.slow
def test_a_bucket_is_tried_and_left_as_it_was(tmp_path: Path, credentials: None) -> None:
    with seaweed(tmp_path, ["ckpt"]) as endpoint:
        words = ["s3://ckpt/run", f"checkpoint.store.endpoint_url={endpoint}", "--json"]
        code, out, error = doctor(*words)
        assert code == 0, (out, error)
        found = {one["subject"]: one for one in json.loads(out)["findings"]}
        assert found["conditional puts"]["found"].endswith("a second creation is refused")
        assert found["speed"]["found"].startswith("s3://ckpt/run: writes ")
        place = PlaceConfig(endpoint_url=endpoint)
        assert run_world(1, lambda _: open_place("s3://ckpt/run", place).list(), join=False) == [{}]
        missing = doctor("s3://nothing/run", *words[1:])
        assert missing[0] == 1
        use = next(one for one in json.loads(missing[1])["findings"] if one["subject"] == "use")
        assert use["level"] == "problem"
        assert "no such object or bucket" in use["found"]


@pytest.mark.slow
def test_a_store_that_overwrites_is_a_problem(tmp_path: Path, credentials: None) -> None:
    (tmp_path / "served" / "ckpt").mkdir(parents=True)
    with rclone(tmp_path / "served") as endpoint:
        code, out, error = doctor(
            "s3://ckpt/run", f"checkpoint.store.endpoint_url={endpoint}", "--json"
        )
    assert code == 1, error
    (found,) = [one for one in json.loads(out)["findings"] if one["subject"] == "conditional puts"]
    assert found["level"] == "problem"
    assert "ignored" in found["found"]


def test_the_table_says_what_to_do_and_the_code_that_something_is_wrong(tmp_path: Path) -> None:
    words = ["model=vit_digits", f"run.dir={tmp_path}", "--seconds", "20"]
    code, out, _ = doctor("parallel.device=cuda", *words)
    assert code == 1, out
    assert "problem GPUs, GPUs: start on a node with GPUs, or set parallel.device=cpu" in out
    assert "warning node, model: name the run's own model=" in out
    assert "problem ranks, devices: start as many ranks a node as CUDA shows GPUs" in out
    assert "2 problem; 1 rank" in out


def test_wrong_usage_is_refused() -> None:
    assert doctor("train.stps=3")[2].startswith("ConfigError('train.stps: found no such key")
    assert doctor("--seconds", "1")[0] == 2
