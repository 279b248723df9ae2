"""`keepstep checkpoint`: lists, shows and verifies a run's checkpoints without its model."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training import copied

from keepstep.trainer.recovery.chaos import flip_byte

Keepstep = Callable[..., Any]


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def test_list_prints_the_last_committed_first(keepstep: Keepstep, run: Path) -> None:
    for place in (run, run / "checkpoints"):
        done = keepstep("list", place)
        assert done.exit_code == 0
        head, first, second = done.stdout.splitlines()
        assert head.split()[:4] == ["CHECKPOINT", "SAVED", "SIZE", "RANKS"]
        assert first.startswith(newest(run).name)
        assert second.startswith("step-000000002-")
        assert re.search(r" [\d.]+ KiB +2 +shard=2 +loss=[\d.]+ +- +whole$", first)


def test_list_says_what_is_damaged(keepstep: Keepstep, run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    flip_byte(newest(other) / "manifest.json")
    (min((other / "checkpoints").glob("step-*")) / "rank-00001.safetensors").unlink()
    done = keepstep("list", other)
    assert done.exit_code == 0
    _, first, second = done.stdout.splitlines()
    assert first.startswith(newest(other).name)
    assert first.endswith(" damaged")
    assert second.endswith(" damaged")


def test_list_of_one_checkpoint_shows_that_one(keepstep: Keepstep, run: Path) -> None:
    assert len(keepstep("list", newest(run)).stdout.splitlines()) == 2


def test_show_prints_progress_lineage_and_each_tensor(keepstep: Keepstep, run: Path) -> None:
    done = keepstep("show", newest(run))
    assert done.exit_code == 0
    assert "step       4\n" in done.stdout
    assert '"world_size": 2' in done.stdout
    assert '"samples": 64' in done.stdout
    assert "  model.embed_tokens.weight  float32 [300, 32]\n" in done.stdout
    assert "  optim.norm.weight.exp_avg  float32 [32]\n" in done.stdout


def test_show_of_a_run_takes_the_newest_and_a_glob_narrows(keepstep: Keepstep, run: Path) -> None:
    done = keepstep("show", run, "--tensors", "model.layers.0.*norm*")
    assert done.stderr == f"taking {newest(run)}\n"
    names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  model.")]
    assert names == [
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
    ]
    assert re.search(r"^ +optim [\d.]+ KiB$", done.stdout, re.M)


@pytest.mark.parametrize("command", ["list", "show", "verify"])
def test_what_is_not_there_is_said_with_exit_code_2(
    keepstep: Keepstep, tmp_path: Path, command: str
) -> None:
    done = keepstep(command, tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "nowhere: found no such folder, needed one that holds checkpoints" in done.stderr


def test_a_damaged_manifest_is_exit_code_1(keepstep: Keepstep, run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    flip_byte(newest(other) / "manifest.json")
    done = keepstep("show", newest(other))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"keepstep: {newest(other)}/manifest.json: ")


def test_verify_finds_a_whole_run_whole(keepstep: Keepstep, run: Path) -> None:
    done = keepstep("verify", run)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2
    assert all(line.endswith(": whole") for line in done.stdout.splitlines())


def test_verify_of_one_checkpoint_reads_that_one(keepstep: Keepstep, run: Path) -> None:
    done = keepstep("verify", newest(run))
    assert (done.exit_code, done.stdout) == (0, f"{newest(run)}: whole\n")


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "rank-00001.safetensors", "manifest"])
def test_verify_names_the_file_of_a_flipped_byte(
    keepstep: Keepstep, run: Path, tmp_path: Path, name: str
) -> None:
    other = copied(run, tmp_path / "run")
    (path,) = newest(other).glob(f"{name}*")
    flip_byte(path)
    done = keepstep("verify", other)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"{path}: ")
    assert done.stdout.splitlines() == [f"{min(path.parent.parent.glob('step-*'))}: whole"]


def test_verify_names_a_missing_file(keepstep: Keepstep, run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    (newest(other) / "rank-00001.safetensors").unlink()
    done = keepstep("verify", other)
    assert done.exit_code == 1
    assert f"{newest(other)}/rank-00001.safetensors: " in done.stderr


def test_every_command_says_how_it_is_called(keepstep: Keepstep) -> None:
    commands = (*("list", "show", "verify", "copy", "prune", "tag"), *("diff", "average"))
    for command in (*commands, "export", "import"):
        done = keepstep(command, "--help")
        assert done.exit_code == 0
        assert f"Example: keepstep checkpoint {command} " in done.stdout
