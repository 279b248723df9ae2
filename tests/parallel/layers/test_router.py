"""The router: who is chosen, by what weight, what is counted, and what its loss moves."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from keepstep.parallel import Router

EXPERTS, WIDTH, ROWS = 4, 6, 9


def router(**changes: float) -> Router:
    module = Router(EXPERTS, WIDTH, top_k=2, **changes)  # type: ignore[arg-type]
    nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
    return module


def rows(count: int = ROWS) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(2))


def scores(module: Router) -> Tensor:
    return (rows() @ module.weight.T).sigmoid()


def test_a_row_goes_to_the_experts_of_its_largest_scores() -> None:
    module = router(scale=2.5)
    chosen, weights, counts = module(rows())
    wanted = scores(module).detach()
    for row in range(ROWS):
        best = sorted(range(EXPERTS), key=lambda one, row=row: -float(wanted[row, one]))[:2]
        assert chosen[row].tolist() == best
        shares = wanted[row, best] / wanted[row, best].sum()
        torch.testing.assert_close(weights[row], 2.5 * shares)
    assert counts.tolist() == [int((chosen == one).sum()) for one in range(EXPERTS)]


def test_a_bias_steers_the_choice_and_not_the_weights() -> None:
    module = router(bias_rate=0.1)
    module.e_score_correction_bias[3] = 10.0
    chosen, weights, _ = module(rows())
    assert (chosen[:, 0] == 3).all()
    taken = scores(module).gather(1, chosen)
    torch.testing.assert_close(weights, taken / taken.sum(1, keepdim=True))


def test_the_bias_moves_by_its_rate_towards_the_mean() -> None:
    module = router(bias_rate=0.25)
    module.rebalance(torch.tensor([4, 1, 2, 1]))
    assert module.e_score_correction_bias.tolist() == [-0.25, 0.25, 0.0, 0.25]
    assert list(module.state_dict()) == ["weight", "e_score_correction_bias"]


def test_without_a_rate_there_is_no_bias_to_move_or_save() -> None:
    module = router(loss_weight=0.1)
    module.rebalance(torch.tensor([4, 1, 2, 1]))
    assert list(module.state_dict()) == ["weight"]


def test_rows_are_counted_once_and_only_in_training() -> None:
    module, own = router(), rows().requires_grad_()
    with torch.no_grad():
        module(own)
    assert module.load_E.sum() == 0
    out = checkpoint(lambda x: module(x)[1].square().sum(), own, use_reentrant=False)
    counted = module.load_E.clone()
    assert counted.sum() == 2 * ROWS
    out.backward()
    assert own.grad is not None
    assert torch.equal(module.load_E, counted)
    assert torch.equal(counted, module(own)[2])


@pytest.mark.parametrize("copies", [1, 2])
def test_the_loss_adds_its_gradient_and_no_value(copies: int) -> None:
    plain, module = router(), router(loss_weight=0.5)
    module.unit, module.copies = (lambda: 0.125), copies
    weights = module(rows())[1]
    assert torch.equal(weights, plain(rows())[1])
    (weights * 0).sum().backward()

    wanted = router()
    of_rows = scores(wanted)
    shares = of_rows / of_rows.sum(1, keepdim=True)
    parts = wanted(rows())[2] / (2 * ROWS)
    loss = 0.5 * EXPERTS * (parts * shares.sum(0)).sum()
    (loss * 0.125 / copies).backward()
    torch.testing.assert_close(module.weight.grad, wanted.weight.grad)


def test_the_loss_of_a_sequence_s_parts_is_that_of_the_whole() -> None:
    whole = router(loss_weight=0.5)
    counts = whole(rows())[2]
    whole(rows())[1].mul(0).sum().backward()
    parts = router(loss_weight=0.5)
    parts.whole = lambda own: counts
    for part in rows().split([4, 5]):
        parts(part)[1].mul(0).sum().backward()
    torch.testing.assert_close(parts.weight.grad, whole.weight.grad)


def test_buffers_begin_anew_after_meta() -> None:
    with torch.device("meta"):
        module = Router(EXPERTS, WIDTH, top_k=2, bias_rate=0.1)
    module.to_empty(device="cpu")
    for buffer in module.buffers():
        buffer.fill_(7)
    module.rebuild_buffers()
    assert [int(buffer.abs().sum()) for buffer in module.buffers()] == [0, 0]
