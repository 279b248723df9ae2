"""Documents of one sample do not see one another: what one holds changes no bit of the others."""

import numpy as np
import pytest
import torch

from keepstep.trainer.models.llama import Llama, LlamaConfig
from keepstep.trainer.objective import next_token_loss, next_token_targets

T = 24
CONFIG = LlamaConfig(
    name="llama", hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=1
)


@pytest.fixture
def model() -> Llama:
    torch.manual_seed(0)
    made = Llama(CONFIG, vocabulary_size=50, max_length=T)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def batch(tokens: np.ndarray) -> dict[str, torch.Tensor]:
    """Two documents side by side, of 10 and 15 tokens."""
    documents = torch.tensor([[0] * 10 + [1] * 14])
    positions = torch.tensor([[*range(10), *range(14)]])
    targets = torch.from_numpy(tokens[1:].copy()).reshape(1, T)
    targets[0, 9] = -100
    rows = torch.from_numpy(tokens.astype(np.uint16)).reshape(1, T + 1)
    return {"tokens": rows, "documents": documents, "positions": positions, "targets": targets}


def logits(model: Llama, one: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = one["tokens"].long()[:, :-1]
    out: torch.Tensor = model(inputs, positions_BT=one["positions"], documents_BT=one["documents"])
    return out


def test_another_first_document_changes_no_bit_of_the_second(model: Llama) -> None:
    tokens = np.random.default_rng(0).integers(0, 50, T + 1)
    other = tokens.copy()
    other[:10] = np.random.default_rng(1).integers(0, 50, 10)
    here, there = logits(model, batch(tokens)), logits(model, batch(other))
    assert torch.equal(here[:, 10:], there[:, 10:])
    assert not torch.equal(here[:, :10], there[:, :10])


def test_a_packed_document_has_the_loss_that_it_has_alone(model: Llama) -> None:
    tokens = np.random.default_rng(2).integers(0, 50, T + 1)
    packed = batch(tokens)
    alone = [{"tokens": torch.from_numpy(part).reshape(1, -1)} for part in np.split(tokens, [10])]
    assert next_token_targets(packed) == sum(map(next_token_targets, alone)) == T - 1
    total = sum(next_token_loss(model, one) for one in alone)
    torch.testing.assert_close(next_token_loss(model, packed), total)
