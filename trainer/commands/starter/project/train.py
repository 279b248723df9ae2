"""Trains the model of this folder on the texts of this folder.

torchrun --standalone --nproc-per-node=2 train.py [OVERRIDES]        or alone: python train.py
"""

import sys
from pathlib import Path

from hydra.core.config_store import ConfigStore
from model import Mine, MineConfig
from samples import read_samples
from torch import Tensor, nn
from torch.nn import functional as F

from keepstep.trainer import Batch, ConfigError, Recipe, RunConfig, Trainer, supervise

HERE = Path(__file__).parent
# configs/ of this folder stands beside keepstep's own; experiment/mine.yaml chooses from both.
SETTINGS = ("--config-dir", str(HERE / "configs"), "+experiment=mine")
ConfigStore.instance().store(group="model", name="mine_schema", node=MineConfig)


def loss(module: nn.Module, batch: Batch) -> Tensor:
    """The SUM over all predicted bytes: keepstep divides by their number over all ranks."""
    bytes_BT = batch["bytes"].long()
    logits_NV = module(bytes_BT[:, :-1])
    return F.cross_entropy(logits_NV, bytes_BT[:, 1:].flatten(), reduction="sum")


def targets(batch: Batch) -> int:
    """How many terms that sum has."""
    return batch["bytes"][:, 1:].numel()


def recipe(config: RunConfig) -> Recipe:
    """What is trained, and on what; called in each process that trains."""
    model = config.model
    if not isinstance(model, MineConfig):
        raise ConfigError(
            f"model: found {model.name}, needed the one of this folder; set model=mine"
        )
    length = config.data.sequence_length
    train, held_out = read_samples(HERE / (config.data.path or "texts"), length=length)
    return Recipe(
        model=lambda: Mine(model, length=length),
        loss=loss,
        targets=targets,
        tokens_per_sample=length,
        samples={"bytes": train},
        eval_samples={"bytes": held_out},
    )


if __name__ == "__main__":
    supervise(Trainer.fit, recipe, [*SETTINGS, *sys.argv[1:]])
