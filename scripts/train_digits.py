"""Trains a Vision Transformer on the 1,797 handwritten digits that come with scikit-learn.

python scripts/train_digits.py [HYDRA OVERRIDES]        also under torchrun, on any layout
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepstep.trainer import Batch, ConfigError, Recipe, RunConfig, Trainer, supervise
from keepstep.trainer.config import ViTConfig
from keepstep.trainer.models.vit import ViT, vit_plan

DEFAULTS = (
    *("model=vit_digits", "train.batch_samples=64", "train.microbatch_samples=16"),
    *("train.steps=150", "train.eval_samples=0", "optim.lr=3e-3", "checkpoint.every_steps=100"),
)
HELD_OUT = 359  # a fifth


def loss(module: nn.Module, batch: Batch) -> Tensor:
    """Sum of the cross entropy over the images."""
    return F.cross_entropy(module(batch["image"]).float(), batch["digit"], reduction="sum")


def digits(config: RunConfig) -> Recipe:
    """The recipe: every image is one sample and one target."""
    from sklearn.datasets import load_digits  # here, since its BLAS starts threads

    model = config.model
    if not isinstance(model, ViTConfig):
        raise ConfigError(f"model: found {model.name}, needed a ViT; set model=vit_digits")
    pixels, labels = load_digits(return_X_y=True)  # pixels are 0 to 16
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    mixed = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    samples = {"image": images[mixed], "digit": torch.from_numpy(labels)[mixed]}
    held_out = {name: tensor[-HELD_OUT:] for name, tensor in samples.items()}

    def finish(module: nn.Module) -> dict[str, float]:
        device = next(module.parameters()).device
        with torch.no_grad():
            found = module.eval()(held_out["image"].to(device)).argmax(-1).cpu()
        return {"accuracy": float((found == held_out["digit"]).float().mean())}

    return Recipe(
        model=lambda: ViT(model),
        plan=vit_plan(model),
        loss=loss,
        samples={name: tensor[:-HELD_OUT] for name, tensor in samples.items()},
        eval_samples=held_out,
        finish=finish,
    )


if __name__ == "__main__":
    supervise(Trainer.fit, digits, [*DEFAULTS, *sys.argv[1:]])
