"""What a layout takes of a rank's memory, worked out without a weight."""

import functools

import pytest
import torch
import torch.distributed as dist
from support.world import RankFailedError, run_world

from keepstep.parallel import simulated_world
from keepstep.trainer import RunConfig
from keepstep.trainer.compose import compose
from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.footprint import Footprint, footprint
from keepstep.trainer.models.llama import Llama, llama_plan

VOCABULARY, LENGTH = 64, 16
MODEL = (
    *("model.hidden_size=16", "model.intermediate_size=32", "model.num_layers=4"),
    *("model.num_heads=4", "model.num_kv_heads=4", f"data.sequence_length={LENGTH}"),
)


def model(config: RunConfig) -> Llama:
    assert isinstance(config.model, LlamaConfig)
    return Llama(config.model, vocabulary_size=VOCABULARY, max_length=LENGTH)


@functools.cache
def composed(*overrides: str) -> RunConfig:
    return compose([*MODEL, *overrides])


def of(world_size: int, rank: int, *overrides: str) -> Footprint:
    config = composed(*overrides)
    assert isinstance(config.model, LlamaConfig)
    plan = llama_plan(config.model, vocabulary_size=VOCABULARY, sequence_length=LENGTH)

    # In a fork: torch remembers meshes by their ranks, and would take a world's for another's.
    (found,) = run_world(
        1,
        lambda _: footprint(config, lambda: model(config), plan, rank=rank, world_size=world_size),
        join=False,
    )
    return found


ELEMENTS = sum(p.numel() for p in model(composed()).parameters())


@pytest.mark.slow(but=["1-overrides0", "4-overrides1", "4-overrides6"])
@pytest.mark.parametrize(
    ("world_size", "overrides"),
    [
        (1, ()),
        (4, ()),
        (4, ("parallel.tensor=2",)),
        (4, ("parallel.pipeline=2",)),
        (4, ("parallel.pipeline=2", "parallel.schedule=ZBVZeroBubble")),
        (8, ("parallel.pipeline=2", "parallel.tensor=2")),
        (4, ("parallel.context=2",)),
    ],
)
def test_the_ranks_of_a_layout_share_the_model(world_size: int, overrides: tuple[str, ...]) -> None:
    parts = [of(world_size, rank, *overrides) for rank in range(world_size)]
    tensor = 2 if "parallel.tensor=2" in overrides else 1
    norms = 9 * 16  # every tensor rank has them
    copies = ELEMENTS + norms * (tensor - 1)
    assert sum(part.parameters for part in parts) == 4 * copies
    assert sum(part.optimizer for part in parts) == 8 * copies


def test_copies_take_the_whole_each() -> None:
    assert of(2, 0, "parallel.replicate=2").parameters == 4 * ELEMENTS


def test_what_is_gathered_is_the_root_and_two_blocks_or_all() -> None:
    root = 2 * VOCABULARY * 16 + 16
    block = (ELEMENTS - root) // 4
    assert of(4, 0).gathered == 2 * 4 * (root + 2 * block)
    kept = of(4, 0, "parallel.reshard_after_forward=false")
    assert kept.gathered == 2 * 4 * ELEMENTS
    assert of(4, 0, "precision=bf16").gathered == 2 * 2 * (root + 2 * block)


def test_a_layout_that_cannot_be_is_refused() -> None:
    with pytest.raises(RankFailedError, match=r"parallel\.tensor: found 8 for 4 attention heads"):
        of(8, 0, "parallel.tensor=8")


def test_a_world_is_simulated_only_where_there_is_none() -> None:
    def body(_: int) -> None:
        with simulated_world(3, 16):
            assert (dist.get_rank(), dist.get_world_size()) == (3, 16)
            dist.all_reduce(torch.ones(1))
            with pytest.raises(RuntimeError, match="found a process group, needed none"):
                simulated_world(0, 1).__enter__()
        assert not dist.is_initialized()

    run_world(1, body, join=False)
