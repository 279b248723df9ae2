"""The output projection: logits, or their loss, and the parameters that a call sees."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keepstep.parallel import Head
from keepstep.parallel.swap import swap_while_called


def test_the_loss_is_the_cross_entropy_of_the_logits() -> None:
    head = Head(4, 7, chunk_tokens=3)
    hidden = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(10).view(2, 5) % 7
    targets[0, 0] = -100
    wanted = F.cross_entropy(head(hidden).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(head(hidden, targets), wanted)


def test_a_call_sees_the_swapped_form_and_gradients_reach_the_parameter() -> None:
    layer = nn.Linear(2, 2, bias=False)
    swap_while_called(layer, ["weight"], lambda weight: weight * 3)
    x = torch.ones(1, 2)
    assert torch.equal(layer(x), F.linear(x, layer.weight * 3))
    layer(x).sum().backward()
    assert layer.weight.grad.tolist() == [[3.0, 3.0]] * 2
    assert isinstance(layer.weight, nn.Parameter)


def test_a_call_that_fails_leaves_the_parameter_as_it_was() -> None:
    layer = nn.Linear(2, 2, bias=False)
    weight = layer.weight
    swap_while_called(layer, ["weight"], lambda held: held * 3)
    with pytest.raises(RuntimeError, match="shapes"):
        layer(torch.ones(1, 3))
    assert layer.weight is weight
