"""Experts: each row by its own, gradients for all of them, and the same over ranks that share."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.world import run_world
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from keepstep.parallel import Experts, Normal, ParallelConfig, Plan, Style, permute
from keepstep.parallel.layers.experts import _grouped, _one_by_one, cross

COUNTS = [[3, 0, 1, 2], [0, 5, 0, 0]]  # of two ranks; the experts 0 and 1 are the first one's
PLAN = Plan(units=("blocks.*",), initial=(("*", Normal(0.5)),), num_experts=4)


def experts(num_experts: int = 4, width: int = 8, inner: int = 16) -> Experts:
    module = Experts(num_experts, width, inner)
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


def rows(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=generator, requires_grad=True)


def by_hand(module: Experts, rows_ND: Tensor, counts: list[int]) -> Tensor:
    chosen = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    done = []
    for row, expert in zip(rows_ND, chosen, strict=True):
        gate, up = module.gate_proj[expert] @ row, module.up_proj[expert] @ row
        done.append(module.down_proj[expert] @ (F.silu(gate) * up))
    return torch.stack(done)


def grads_of(module: Experts) -> list[Tensor]:
    grads = [p.grad for p in (module.gate_proj, module.up_proj, module.down_proj)]
    assert all(grad is not None for grad in grads)
    return grads  # type: ignore[return-value]


@pytest.mark.parametrize("counts", COUNTS)
def test_each_row_is_its_experts(counts: list[int]) -> None:
    module, own = experts(), rows(sum(counts))
    found, wanted = module(own, torch.tensor(counts)), by_hand(module, own, counts)
    torch.testing.assert_close(found, wanted)


def test_an_expert_without_rows_has_a_gradient_of_zero() -> None:
    module = experts()
    module(rows(6), torch.tensor(COUNTS[0])).square().sum().backward()
    for grad in grads_of(module):
        assert grad.flatten(1).norm(dim=1).gt(0).tolist() == [True, False, True, True]


def test_no_rows_at_all_give_no_rows_and_gradients_of_zero() -> None:
    module, own = experts(), rows(0)
    found = module(own, torch.zeros(4, dtype=torch.int64))
    found.sum().backward()
    assert found.shape == (0, 8)
    assert [float(grad.abs().sum()) for grad in grads_of(module)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("counts", COUNTS)
def test_the_grouped_kernel_computes_what_the_loop_does(counts: list[int]) -> None:
    found = []
    for multiply in (_grouped, _one_by_one):
        module, own = experts().bfloat16(), rows(sum(counts)).detach().bfloat16()
        weights = (module.gate_proj, module.up_proj, module.down_proj)
        done = multiply(own, torch.tensor(counts), *weights)
        (done * torch.arange(8)).float().square().sum().backward()
        found.append([done, *grads_of(module)])
    for grouped, alone in zip(*found, strict=True):
        largest = float(alone.detach().abs().max())
        torch.testing.assert_close(grouped, alone, rtol=0, atol=2e-2 * largest)


def test_a_permutation_is_undone_in_backward() -> None:
    order = torch.tensor([2, 0, 3, 1])
    own = rows(4).detach().double().requires_grad_()
    assert torch.equal(permute(own, order, order.argsort()), own[order])
    assert torch.autograd.gradcheck(lambda x: permute(x, order, order.argsort()), (own,))


def test_rows_that_travel_come_back_as_if_all_experts_were_here() -> None:
    def body(rank: int) -> None:
        counts, whole = COUNTS[rank], experts()
        own = rows(sum(counts), seed=rank)
        part = experts(2)
        with torch.no_grad():
            for mine, every in zip(part.parameters(), whole.parameters(), strict=True):
                mine.copy_(every[2 * rank : 2 * rank + 2])
        found = cross(own, torch.tensor(counts), part._compute, group=torch.distributed.group.WORLD)
        found.square().sum().backward()
        for other, of_other in enumerate(COUNTS):
            theirs = rows(sum(of_other), seed=other)
            wanted = whole(theirs, torch.tensor(of_other))
            wanted.square().sum().backward()
            if other == rank:
                torch.testing.assert_close(found, wanted)
                torch.testing.assert_close(own.grad, theirs.grad)
        for mine, every in zip(grads_of(part), grads_of(whole), strict=True):
            torch.testing.assert_close(mine, every[2 * rank : 2 * rank + 2])

    run_world(2, body)


class Block(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)
        self.experts = Experts(4, 8, inner)

    def forward(self, rows_ND: Tensor) -> Tensor:
        return rows_ND + self.experts(self.mix(rows_ND), torch.tensor([0, 2, 1, 2]))


class Model(nn.Module):
    def __init__(self, inner: int = 16) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(inner) for _ in range(2))

    def forward(self, rows_ND: Tensor) -> Tensor:
        for block in self.blocks:
            rows_ND = block(rows_ND)
        return rows_ND


@pytest.mark.parametrize(
    ("size", "config", "shape"),
    [
        (2, ParallelConfig(expert=2), (2, 16, 8)),
        (4, ParallelConfig(expert=2), (1, 16, 8)),
        (4, ParallelConfig(replicate=2, expert=2), (2, 16, 8)),
        (4, ParallelConfig(), (1, 16, 8)),
    ],
    ids=["expert2", "shard4-expert2", "replicate2-expert2", "shard4"],
)
def test_gradients_are_sums_over_all_ranks(
    size: int, config: ParallelConfig, shape: tuple[int, ...], tiny: SimpleNamespace
) -> None:
    def grads(rank: int, config: ParallelConfig) -> dict[str, Tensor]:
        module, topology = tiny.assembled(config, build=Model, plan=PLAN)
        for seed in range(topology.data_index, size, topology.data_count):
            module(rows(5, seed)).square().sum().backward()
        own = module.blocks[0].experts.gate_proj
        assert isinstance(own, DTensor)
        return {**tiny.full(module, of_grads=True), "shape": torch.tensor(own.to_local().shape)}

    (one,) = run_world(1, grads, ParallelConfig())
    for found in run_world(size, grads, config):
        assert tuple(found.pop("shape").tolist()) == shape
        for name, grad in found.items():
            largest = float(one[name].abs().max())
            torch.testing.assert_close(grad, one[name], rtol=0, atol=1e-5 * largest)


def test_experts_are_cut_inside_where_the_ranks_outnumber_them(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> tuple[list[int], bool]:
        module, _ = tiny.assembled(ParallelConfig(expert=2), build=Odd, plan=ODD_PLAN)
        values = tiny.full(module)["experts.up_proj"]
        return list(module.experts.up_proj.to_local().shape), bool(torch.equal(values, wanted))

    wanted = run_world(1, lambda _: tiny.full(_odd(tiny))["experts.up_proj"])[0]
    assert run_world(4, body) == [([1, 8, 8], True)] * 4


class Odd(nn.Module):
    """Two experts for two ranks, which two more ranks share with them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = Experts(2, 8, 16)

    def forward(self, rows_ND: Tensor) -> Tensor:
        return self.experts(rows_ND, torch.tensor([1, 1]))


ODD_PLAN = Plan(units=(), initial=(("*", Normal(0.5)),), num_experts=2)


def _odd(tiny: SimpleNamespace) -> nn.Module:
    return tiny.assembled(ParallelConfig(), build=Odd, plan=ODD_PLAN)[0]


def never() -> nn.Module:
    raise AssertionError("a module was built")


@pytest.mark.parametrize(
    ("config", "plan", "sentence"),
    [
        (
            ParallelConfig(expert=4),
            Plan(num_experts=6),
            r"^parallel\.expert: found 4 for 6 experts, needed a divisor of them; set "
            r"parallel\.expert=2$",
        ),
        (
            ParallelConfig(expert=2),
            Plan(),
            r"^parallel\.expert: found 2 for a model without experts, needed 1; set "
            r"parallel\.expert=1, or choose a model that has some$",
        ),
    ],
)
def test_experts_that_the_ranks_cannot_share_are_refused_before_any_is_made(
    config: ParallelConfig, plan: Plan, sentence: str, tiny: SimpleNamespace
) -> None:
    def body(rank: int) -> None:
        with pytest.raises(ValueError, match=sentence):
            tiny.assembled(config, build=never, plan=plan)

    run_world(4, body)


@pytest.mark.parametrize(
    ("config", "changes", "sentence"),
    [
        (ParallelConfig(), {"num_experts": 3}, r"num_experts: found 3, needed 4, the experts of b"),
        (
            ParallelConfig(tensor=2),
            {"tensor": (("*mix", "replicate"),)},
            r"found the experts blocks\.0\.experts in no module of style partial, needed one",
        ),
    ],
)
def test_experts_that_the_plan_does_not_fit_are_refused_by_name(
    config: ParallelConfig, changes: dict[str, object], sentence: str, tiny: SimpleNamespace
) -> None:
    plan = Plan(**{"initial": PLAN.initial, "num_experts": 4, **changes})  # type: ignore[arg-type]

    def body(rank: int) -> None:
        with pytest.raises(ValueError, match=sentence):
            tiny.assembled(config, build=Model, plan=plan)

    run_world(config.tensor, body)


def test_inner_features_that_the_ranks_cannot_share_are_refused(tiny: SimpleNamespace) -> None:
    plan = replace(PLAN, tensor=(("blocks.*", Style.partial),))

    def body(rank: int) -> None:
        with pytest.raises(ValueError, match=r"have 9 inner features, needed a divisor of them; s"):
            tiny.assembled(ParallelConfig(tensor=2), build=lambda: Model(9), plan=plan)

    run_world(2, body)
