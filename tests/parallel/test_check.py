"""What several settings cannot be together, each refused in one sentence that names the way out."""

import pytest

from keepstep.parallel import MemoryConfig, ParallelConfig, check_settings
from keepstep.parallel.check import SPLIT_BACKWARD
from keepstep.parallel.config import SCHEDULES, Recompute

OVERLAP = {"async_tensor": True, "tensor": 2}


@pytest.mark.parametrize("schedule", [*SPLIT_BACKWARD, "own.csv"])
def test_a_split_backward_refuses_recomputation_and_compiled_blocks(schedule: str) -> None:
    parallel = ParallelConfig(pipeline=2, schedule=schedule)
    for kind in (Recompute.full, Recompute.selective):
        with pytest.raises(
            ValueError,
            match=rf"^memory.recompute={kind}: found parallel.schedule={schedule}, .*; set ",
        ):
            check_settings(parallel, MemoryConfig(recompute=kind), "cpu")
    with pytest.raises(
        ValueError, match=rf"^memory.compile=true: found parallel.schedule={schedule}, .*; set "
    ):
        check_settings(parallel, MemoryConfig(compile=True), "cpu")


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - set(SPLIT_BACKWARD)))
def test_other_schedules_take_every_memory_option(schedule: str) -> None:
    parallel = ParallelConfig(pipeline=2, schedule=schedule)
    for kind in Recompute:
        check_settings(parallel, MemoryConfig(recompute=kind, compile=True), "cpu")


def test_a_schedule_counts_only_where_there_is_a_pipeline() -> None:
    parallel = ParallelConfig(schedule="ZBVZeroBubble")
    check_settings(parallel, MemoryConfig(recompute=Recompute.selective, compile=True), "cpu")


def test_activations_may_wait_on_the_host_under_a_split_backward() -> None:
    parallel = ParallelConfig(pipeline=2, schedule="DualPipeV")
    check_settings(parallel, MemoryConfig(offload_activations=True), "cpu")


def test_what_selective_recomputation_keeps_cannot_be_moved() -> None:
    memory = MemoryConfig(recompute=Recompute.selective, offload_activations=True)
    with pytest.raises(
        ValueError,
        match=r"^memory.offload_activations=true: found memory.recompute=selective, .*; set "
        "memory.recompute=full$",
    ):
        check_settings(ParallelConfig(), memory, "cpu")


@pytest.mark.parametrize(
    ("changes", "device", "found", "needed"),
    [
        ({}, "cpu", "device cpu", "cuda"),
        ({"tensor": 1}, "cuda", "parallel.tensor=1", "2 or more"),
        ({"sequence_parallel": False}, "cuda", "parallel.sequence_parallel=false", "parallel.seq"),
    ],
)
def test_overlapped_tensor_parallelism_is_refused_where_it_cannot_be(
    changes: dict[str, object], device: str, found: str, needed: str
) -> None:
    parallel = ParallelConfig(**{**OVERLAP, **changes})  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=f"^parallel.async_tensor=true: found {found}, needed {needed}"
    ) as caught:
        check_settings(parallel, MemoryConfig(compile=True), device)
    assert str(caught.value).endswith("; set parallel.async_tensor=false")


def test_overlapped_tensor_parallelism_needs_compiled_blocks() -> None:
    with pytest.raises(ValueError, match=r"found memory\.compile=false, needed memory"):
        check_settings(ParallelConfig(**OVERLAP), MemoryConfig(), "cuda")


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_overlapped_tensor_parallelism_is_taken_where_it_can_be(device: str) -> None:
    check_settings(ParallelConfig(**OVERLAP), MemoryConfig(compile=True), device)
