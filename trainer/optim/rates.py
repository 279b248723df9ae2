"""Learning rates of an optimizer's groups as parts of their peaks."""

import torch


class LearningRates:
    """Sets an optimizer's learning rates to a part of their peaks, which it reads once."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]

    def set(self, part: float) -> float:
        """Scales every group's rate to `part` of its peak; answers the first group's."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * part
        return self.peaks[0] * part
