"""Units found in any module, and the initial values themselves."""

import pytest
import torch
from torch import nn

from keepstep.parallel import Initial, Normal, Ones, Plan, TruncatedNormal, Zeros


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def linears(count: int) -> list[nn.Module]:
    return [nn.Linear(2, 2) for _ in range(count)]


def test_children_of_a_module_list_are_units() -> None:
    module = nn.ModuleDict({"blocks": nn.ModuleList(linears(3)), "head": nn.Linear(2, 2)})
    assert Plan.of(module).units == ("blocks.0", "blocks.1", "blocks.2")


def test_children_of_a_sequential_root_without_parameters_are_not_units() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert Plan.of(module).units == ("0", "2")


def test_lists_are_found_below_other_modules_and_blocks_are_not_cut_further() -> None:
    block = nn.Sequential(*linears(2))
    module = nn.ModuleDict({"body": nn.ModuleDict({"h": nn.ModuleList([block, *linears(1)])})})
    assert Plan.of(module).units == ("body.h.0", "body.h.1")


def test_a_list_of_lists_yields_the_blocks_that_can_be_called() -> None:
    module = nn.ModuleList([nn.ModuleList(linears(2)), nn.ModuleList(linears(2))])
    assert Plan.of(module).units == ("0.0", "0.1", "1.0", "1.1")


@pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())])
def test_a_module_without_repeated_blocks_has_no_units(module: nn.Module) -> None:
    assert Plan.of(module).units == ()


def test_a_block_that_shares_a_parameter_is_left_to_the_root() -> None:
    first, middle, last = linears(3)
    last.weight = first.weight
    assert Plan.of(nn.Sequential(first, middle, last)).units == ("1",)


def test_a_name_with_characters_of_globs_means_itself() -> None:
    module = nn.Sequential()
    module.add_module("[a]", nn.Linear(2, 2))
    module.add_module("a", nn.Linear(2, 2))
    assert Plan.of(module).units == ("[[]a]", "a")


@pytest.mark.parametrize(
    "initial", [Normal(0.02), Normal(1.0, mean=3.0), TruncatedNormal(0.02), Zeros(), Ones()]
)
def test_a_draw_follows_from_its_generator_alone(initial: Initial) -> None:
    torch.manual_seed(5)
    first = initial.draw((4, 3), generator())
    torch.manual_seed(6)
    with torch.device("meta"):
        second = initial.draw((4, 3), generator())
    assert (first.dtype, first.device.type, first.shape) == (torch.float32, "cpu", (4, 3))
    assert torch.equal(first, second)


def test_normal_values_have_their_mean_and_deviation() -> None:
    drawn = Normal(0.5, mean=2.0).draw((200, 200), generator())
    assert abs(drawn.mean().item() - 2.0) < 0.02
    assert abs(drawn.std().item() - 0.5) < 0.02


def test_truncated_values_stay_within_their_limit_and_reach_for_it() -> None:
    drawn = TruncatedNormal(0.5, limit=2.0).draw((200, 200), generator())
    assert 0.98 < drawn.abs().max().item() <= 1.0


def test_constants_are_constant() -> None:
    assert Zeros().draw((3,), generator()).tolist() == [0.0] * 3
    assert Ones().draw((3,), generator()).tolist() == [1.0] * 3
