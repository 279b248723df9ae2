"""Initial values by name: the same bits on every layout, moved by nothing but seed and name."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.world import run_world
from torch import nn

from keepstep.parallel import Normal, Ones, Plan, Zeros, canonical_name, initialise
from keepstep.parallel.initialise import derived_seed, retie

EVERYWHERE = Plan(initial=(("*", Normal(1.0)),))


def test_values_are_bit_equal_to_one_process_on_every_layout(
    layout: Any, tiny: SimpleNamespace
) -> None:
    expected = dict(tiny.whole().named_parameters())

    def body(rank: int) -> bool:
        module, _ = tiny.assembled(layout.config)
        found = tiny.full(module)
        assert found.keys() == expected.keys()
        return all(torch.equal(found[name], expected[name]) for name in expected)

    assert run_world(layout.size, body) == [True] * layout.size


def test_a_living_module_begins_again_with_the_same_bits(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> bool:
        module, topology = tiny.assembled(tiny.sharded)
        before = tiny.full(module)
        tiny.loss_of(module, tiny.share(topology)).backward()
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        changed = not torch.equal(tiny.full(module)["embed.weight"], before["embed.weight"])
        initialise(module, tiny.plan, seed=tiny.seed)
        after = tiny.full(module)
        return changed and all(torch.equal(after[name], before[name]) for name in before)

    assert run_world(2, body) == [True, True]


def test_a_parameter_does_not_move_when_others_come_and_go() -> None:
    small = nn.ModuleDict({"b": nn.Linear(3, 3)})
    large = nn.ModuleDict({"a": nn.Linear(5, 5), "b": nn.Linear(3, 3)})
    for module in (small, large):
        initialise(module, EVERYWHERE, seed=1)
    assert torch.equal(small["b"].weight, large["b"].weight)
    assert not torch.equal(small["b"].weight.flatten()[:3], small["b"].bias)


def test_another_seed_gives_other_values() -> None:
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    initialise(one, EVERYWHERE, seed=1)
    initialise(two, EVERYWHERE, seed=2)
    assert not torch.equal(one.weight, two.weight)


def test_values_are_stable_over_versions() -> None:
    assert derived_seed(3, "embed.weight") == 5818293464108050452


def test_the_first_glob_that_matches_wins() -> None:
    module = nn.Linear(3, 3)
    initialise(module, Plan(initial=(("bias", Ones()), ("*", Zeros()))), seed=1)
    assert module.bias.tolist() == [1.0] * 3
    assert not module.weight.any()


def test_parameters_without_a_value_are_named_and_nothing_is_written() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    before = module["a"].weight.clone()
    with pytest.raises(ValueError, match=r"found no value for a\.bias, b\.weight, b\.bias, needed"):
        initialise(module, Plan(initial=(("a.weight", Ones()),)), seed=1)
    assert torch.equal(module["a"].weight, before)


def test_a_tied_parameter_is_drawn_under_its_owners_name() -> None:
    module = nn.ModuleDict({"head": nn.Linear(3, 3, bias=False), "embed": nn.Embedding(3, 3)})
    alone = nn.ModuleDict({"embed": nn.Embedding(3, 3)})
    plan = Plan(initial=EVERYWHERE.initial, tied=(("head.weight", "embed.weight"),))
    retie(module, plan)
    initialise(module, plan, seed=1)
    initialise(alone, EVERYWHERE, seed=1)
    assert module["head"].weight is module["embed"].weight
    assert torch.equal(module["head"].weight, alone["embed"].weight)


def test_a_tie_to_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"plan\.tied: found 'no\.weight', needed the name of"):
        retie(nn.Linear(2, 2), Plan(tied=(("weight", "no.weight"),)))


@given(st.lists(st.sampled_from(["blocks", "0", "weight", "orig_mod"]), min_size=1), st.data())
def test_wrappers_leave_no_trace_in_a_name(parts: list[str], data: st.DataObject) -> None:
    wrapped = list(parts)
    for wrapper in ("_orig_mod", "_checkpoint_wrapped_module"):
        wrapped.insert(data.draw(st.integers(0, len(wrapped) - 1)), wrapper)
    assert canonical_name(".".join(wrapped)) == ".".join(parts)


def test_a_compiled_module_begins_as_the_plain_one() -> None:
    plain, wrapped = nn.Linear(3, 3), nn.ModuleDict({"_orig_mod": nn.Linear(3, 3)})
    for module in (plain, wrapped):
        initialise(module, EVERYWHERE, seed=1)
    assert torch.equal(plain.weight, wrapped["_orig_mod"].weight)
