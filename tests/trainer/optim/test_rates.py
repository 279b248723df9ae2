"""Learning rates are parts of peaks."""

import pytest
import torch
from torch import nn

from keepstep.trainer.optim import LearningRates


def test_rates_are_parts_of_peaks_that_are_read_once() -> None:
    made = nn.ModuleList([nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 2)])
    groups = [{"params": [made[0].weight], "lr": 0.4}, {"params": [made[2].weight], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    rates = LearningRates(optimizer)
    assert rates.set(0.5) == pytest.approx(0.2)
    assert rates.set(0.25) == pytest.approx(0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05])
