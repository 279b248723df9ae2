"""`keepstep checkpoint diff` and `average` on a run's own checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Keepstep = Callable[..., Any]


def pair(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def test_a_checkpoint_is_equal_to_itself_with_exit_code_0(keepstep: Keepstep, run: Path) -> None:
    done = keepstep("diff", pair(run)[0], pair(run)[0])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.endswith(" tensors are equal, 0 changed\n")


def test_a_difference_is_exit_code_1_and_told_by_tensor(keepstep: Keepstep, run: Path) -> None:
    done = keepstep("diff", *pair(run), "--tensors", "optim.norm*", "--top", 1)
    assert done.exit_code == 1
    first, more, last = done.stdout.splitlines()
    assert first.startswith("! optim.norm.weight.")
    assert "absolute " in first
    assert more == "! 2 more changed; see them with --top"
    assert last == "0 tensors are equal, 3 changed"


def test_an_average_is_a_whole_checkpoint_between_its_sources(
    keepstep: Keepstep, run: Path, tmp_path: Path
) -> None:
    done = keepstep("average", tmp_path / "mean", *pair(run), "--weights", "1,3")
    assert done.exit_code == 0
    folder = Path(done.stdout.strip())
    assert keepstep("verify", folder).exit_code == 0
    name = "model.embed_tokens.weight"
    parts = [
        torch.cat([load_file(path)[name] for path in sorted(one.glob("*.safetensors"))])
        for one in (*pair(run), folder)
    ]
    assert torch.allclose(parts[2], (parts[0] + 3 * parts[1]) / 4, atol=1e-7)
    manifest = json.loads((folder / "manifest.json").read_bytes())["head"]
    assert manifest["step"] == 4
    assert manifest["lineage"] == {"averaged": [str(p) for p in pair(run)], "weights": [1.0, 3.0]}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("1", "weights: found [1.0] for 2 checkpoints"),
        ("a,b", "--weights: found 'a,b', needed 2 numbers"),
    ],
)
def test_weights_that_do_not_fit_are_exit_code_2(
    keepstep: Keepstep, run: Path, tmp_path: Path, weights: str, sentence: str
) -> None:
    done = keepstep("average", tmp_path / "mean", *pair(run), "--weights", weights)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert not (tmp_path / "mean").exists()
