"""What several settings of this room must agree on, said before any work begins."""

from .config import MemoryConfig, ParallelConfig, Recompute

# Schedules that go back through a stage twice: for its inputs first, for its weights later.
SPLIT_BACKWARD = ("InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")


def check_settings(parallel: ParallelConfig, memory: MemoryConfig, device_type: str) -> None:
    """Refuses settings that torch cannot join. Pure: touches no device.

    Args:
        device_type: `cpu` or `cuda`, or `auto` where it is not known yet.

    Raises:
        ValueError: one sentence with the setting, what was found, what was needed, what to do.
    """
    _check_split_backward(parallel, memory)
    _check_offload(memory)
    if parallel.exact and parallel.expert > 1:
        raise ValueError(
            f"parallel.exact=true: found parallel.expert={parallel.expert}, needed 1, for ranks "
            "that share experts compute those of each other's samples in one product; set "
            "parallel.expert=1, or parallel.exact=false"
        )
    if parallel.async_tensor:
        _check_async_tensor(parallel, memory, device_type)


def _check_split_backward(parallel: ParallelConfig, memory: MemoryConfig) -> None:
    """What goes back through a block in one piece. A CSV file may split backward too, which only
    torch knows once it runs."""
    name = parallel.schedule
    if parallel.pipeline == 1 or not (name in SPLIT_BACKWARD or name.endswith(".csv")):
        return
    if memory.compile:
        raise ValueError(
            f"memory.compile=true: found parallel.schedule={name}, which splits backward in two, "
            "needed one that does not, for a compiled block's backward is one piece; set "
            "memory.compile=false or parallel.schedule=Interleaved1F1B"
        )
    if memory.recompute is not Recompute.none:
        # Measured on torch 2.13: full recomputes a block 5 to 10 times, selective fails.
        raise ValueError(
            f"memory.recompute={memory.recompute}: found parallel.schedule={name}, which splits "
            "backward in two, needed one that does not, for torch would compute a block again for "
            "each of its weights; set memory.recompute=none, with memory.offload_activations=true "
            "to save memory, or parallel.schedule=Interleaved1F1B"
        )


def _check_offload(memory: MemoryConfig) -> None:
    if not memory.offload_activations:
        return
    if memory.recompute is Recompute.selective:
        raise ValueError(
            "memory.offload_activations=true: found memory.recompute=selective, whose kept "
            "activations torch holds on the device, needed full or none; set memory.recompute=full"
        )


def _check_async_tensor(parallel: ParallelConfig, memory: MemoryConfig, device_type: str) -> None:
    needs = {
        f"device {device_type}": (device_type != "cpu", "cuda"),
        f"parallel.tensor={parallel.tensor}": (parallel.tensor > 1, "2 or more"),
        "memory.compile=false": (memory.compile, "memory.compile=true"),
        "parallel.sequence_parallel=false": (
            parallel.sequence_parallel,
            "parallel.sequence_parallel=true",
        ),
    }
    for found, (holds, needed) in needs.items():
        if not holds:
            raise ValueError(
                f"parallel.async_tensor=true: found {found}, needed {needed}, for it is the "
                "compiler that overlaps gathers with matrix products on CUDA; set "
                "parallel.async_tensor=false"
            )
