"""The language-model loss is a sum, so that parts of a batch add up to the whole."""

import math

import pytest
import torch
from torch import Tensor, nn

from keepstep.parallel import Head
from keepstep.trainer.objective import next_token_loss, next_token_targets


class Table(nn.Module):
    """Logits of the next token that depend on the current token alone."""

    def __init__(self, logits_VV: Tensor) -> None:
        super().__init__()
        self.head = Head(*logits_VV.shape)
        self.head.weight = nn.Parameter(logits_VV.T)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        size, dtype = self.head.in_features, self.head.weight.dtype
        return self.head(nn.functional.one_hot(tokens_BT, size).to(dtype), targets_BT)


def paid(table: nn.Module, rows: dict[str, Tensor]) -> float:
    return float(next_token_loss(table, rows).detach())


def batch(rows: int) -> dict[str, Tensor]:
    return {"tokens": torch.arange(rows * 6).view(rows, 6) * 7 % 5}


def test_a_model_that_knows_nothing_pays_the_logarithm_of_the_vocabulary() -> None:
    loss = next_token_loss(Table(torch.zeros(5, 5)), batch(3)).detach()
    assert float(loss) == pytest.approx(3 * 5 * math.log(5))
    assert loss.dtype == torch.float32


def test_a_model_that_knows_the_next_token_pays_nothing() -> None:
    rows = torch.tensor([[0, 1, 2, 3, 4, 0]])
    certain = torch.roll(torch.eye(5), 1, dims=1) * 50
    assert paid(Table(certain), {"tokens": rows}) == pytest.approx(0, abs=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    table = Table(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    whole = batch(4)
    parts = [{"tokens": rows} for rows in whole["tokens"].split([1, 3])]
    total = sum(paid(table, part) for part in parts)
    assert total == pytest.approx(paid(table, whole))
    assert sum(map(next_token_targets, parts)) == next_token_targets(whole) == 20


def test_logits_of_half_precision_are_summed_in_full() -> None:
    table = Table(torch.zeros(5, 5, dtype=torch.bfloat16))
    assert paid(table, batch(40)) == pytest.approx(200 * math.log(5), rel=1e-6)


def test_a_batch_without_rows_costs_nothing() -> None:
    empty = {"tokens": torch.empty(0, 6, dtype=torch.int64)}
    assert paid(Table(torch.zeros(5, 5)), empty) == 0.0
    assert next_token_targets(empty) == 0
