"""The README's example: any module, any tensors, any loss."""

import torch

from keepstep.trainer import Recipe, Trainer, supervise


def recipe(config) -> Recipe:
    x = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))
    return Recipe(
        model=lambda: torch.nn.Sequential(
            torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)
        ),
        samples={"x": x, "y": x.sin().sum(1, keepdim=True)},
        loss=lambda model, batch: (model(batch["x"]) - batch["y"]).square().sum(),
    )


if __name__ == "__main__":
    supervise(Trainer.fit, recipe)
