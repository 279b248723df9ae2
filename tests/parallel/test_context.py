"""Sequences over ranks: the gradients of one process, and models that cannot be cut so."""

import pytest
import torch
from support.decoder import Decoder, assembled, decoder_plan, tokens
from support.world import run_world
from torch import Tensor

from keepstep.parallel import ContextAttention, ParallelConfig, initialise, reshard
from keepstep.parallel.layers.attend import Attend
from keepstep.parallel.layers.attention import local_attention

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2]]).expand(4, -1)


def whole(documents: Tensor | None) -> tuple[float, dict[str, Tensor], Tensor]:
    module = Decoder()
    initialise(module, decoder_plan(), seed=3)
    loss = module(tokens()[:, :-1], targets=tokens()[:, 1:], documents=documents)
    loss.backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    logits = module(tokens()[:, :-1], documents=documents)
    return float(loss.detach()), grads, logits.detach()


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["one document", "documents"])
@pytest.mark.parametrize("kind", [ContextAttention.gather, ContextAttention.ulysses])
def test_loss_gradients_and_logits_are_those_of_one_process(
    kind: ContextAttention, documents: Tensor | None
) -> None:
    def body(rank: int) -> tuple[float, dict[str, Tensor], Tensor]:
        module, _ = assembled(ParallelConfig(context=2, context_attention=kind))
        loss = module(tokens()[:, :-1], targets=tokens()[:, 1:], documents=documents)
        loss.backward()
        grads = {name: p.grad.full_tensor().clone() for name, p in module.named_parameters()}
        with torch.no_grad():
            logits = module(tokens()[:, :-1], documents=documents)
        reshard(module)
        return float(loss.detach()), grads, logits

    loss, grads, logits = whole(documents)
    found = run_world(2, body)
    assert sum(one[0] for one in found) == pytest.approx(loss, rel=1e-6)
    for _, ours, outputs in found:
        torch.testing.assert_close(outputs, logits, rtol=1e-5, atol=1e-6)
        for name, grad in grads.items():
            assert (ours[name] - grad).abs().max() <= 3e-6 * grad.abs().max(), name


def test_a_model_that_trains_on_whole_logits_is_refused() -> None:
    def body(rank: int) -> None:
        module, _ = assembled(ParallelConfig(context=2))
        with pytest.raises(ValueError, match=r"found an output of shape .*needed the summed loss"):
            module(tokens()[:, :-1])

    run_world(2, body)


@pytest.mark.parametrize("changes", [{"sequence_inputs": ()}])
def test_a_plan_that_names_no_sequences_says_what_it_lacks(changes: dict[str, object]) -> None:
    def body(rank: int) -> None:
        with pytest.raises(ValueError, match=r"context: found 2 for a model, whose plan names"):
            assembled(ParallelConfig(context=2), plan=decoder_plan(**changes))

    run_world(2, body)


def test_heads_that_ulysses_cannot_deal_out_are_refused_before_anything_is_built() -> None:
    def body(rank: int) -> None:
        config = ParallelConfig(context=2, context_attention=ContextAttention.ulysses)
        with pytest.raises(
            ValueError, match=r"context: found 2 for 3 attention heads, .*context=1"
        ):
            assembled(config, plan=decoder_plan(heads=(3, 3)))

    run_world(2, body)


def test_attention_is_local_until_it_is_made_to_cross_ranks() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 2, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(Attend()(q, k, v), local_attention(q, k, v))
