"""What a person may set about layout and precision: fields, units, edges, own-field checks.

Whether the degrees fit the number of ranks is said by `mesh.Degrees`, which knows the world.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

LAID_OUT = ("replicate", "shard")
NOT_LAID_OUT = ("context", "tensor", "pipeline", "expert")


class DeviceKind(StrEnum):
    """Where parameters live: `auto` is CUDA where the node has it, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrecisionName(StrEnum):
    """Names of the dtype policies; `precision.Policy` says what each one means."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


@dataclass(kw_only=True, slots=True)
class PrecisionConfig:
    """The group `precision`."""

    name: PrecisionName = PrecisionName.fp32
    """Dtype policy; tf32 needs CUDA, bf16 keeps fp32 parameters and computes in bfloat16."""


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    """The group `parallel`: how many ranks each degree takes; their product is the world."""

    replicate: int = 1
    """Number of whole copies of the model, each of them sharded; at least 1."""
    shard: int = -1
    """Number of ranks that share one copy; -1 takes all that the other degrees leave."""
    context: int = 1
    """Number of ranks that share one sequence; at least 1."""
    tensor: int = 1
    """Number of ranks that share one matrix; at least 1."""
    pipeline: int = 1
    """Number of stages that the layers are cut into; at least 1."""
    expert: int = 1
    """Number of ranks that share the experts of one layer; at least 1."""
    schedule: str = "1F1B"
    """Name of the pipeline schedule; used where pipeline > 1."""
    microbatches: int = 0
    """Micro-batches in flight in the pipeline; used where pipeline > 1; 0 is one a stage."""
    reshard_after_forward: bool = True
    """Frees a block's gathered parameters between its forward and backward: less memory, more
    traffic."""
    device: DeviceKind = DeviceKind.auto
    """Kind of device that the job runs on."""
    timeout_seconds: float = 600.0
    """Deadline of one collective in seconds; above 0."""

    def __post_init__(self) -> None:
        for name in (*LAID_OUT, *NOT_LAID_OUT):
            _check_degree(name, getattr(self, name))
        if self.microbatches < 0:
            raise ValueError(
                f"parallel.microbatches: found {self.microbatches}, needed 0 or more; "
                "set 0 for one a stage"
            )
        if not (math.isfinite(self.timeout_seconds) and self.timeout_seconds > 0):
            raise ValueError(
                f"parallel.timeout_seconds: found {self.timeout_seconds}, needed a finite number "
                "of seconds above 0; set 600 for ten minutes"
            )


def _check_degree(name: str, found: int) -> None:
    if name == "shard" and found == -1:
        return
    if found < 1:
        or_rest = ", or -1 for all ranks that are left" if name == "shard" else ""
        raise ValueError(
            f"parallel.{name}: found {found}, needed 1 or more{or_rest}; set parallel.{name}=1"
        )
    if name in NOT_LAID_OUT and found > 1:
        raise ValueError(
            f"parallel.{name}: found {found}, needed 1, for this version lays out replicate and "
            f"shard only; set parallel.{name}=1 and give the ranks to parallel.shard"
        )
