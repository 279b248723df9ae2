"""The model learns, and the whole of a short run works: `pytest` in this folder."""

import json
from pathlib import Path

import torch
from model import Mine, MineConfig
from train import SETTINGS, loss, recipe

from keepstep.trainer import Trainer
from keepstep.trainer.supervise import run

SMALL = ("recovery.enabled=false", "telemetry.progress=false", "train.steps=3")


def test_the_model_learns_one_sample_by_heart() -> None:
    torch.manual_seed(0)
    model = Mine(MineConfig(name="mine", width=16, blocks=1, heads=2), length=8)
    batch = {"bytes": torch.arange(65, 74, dtype=torch.uint8)[None]}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    before = loss(model, batch).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    assert loss(model, batch).item() < before / 4


def test_a_short_run_ends_with_its_summary(tmp_path: Path) -> None:
    assert run(Trainer.fit, recipe, [*SETTINGS, *SMALL, f"run.dir={tmp_path}/run"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["eval_loss"] < 6.0
