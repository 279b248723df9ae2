"""What a person may set about layout and precision: fields, units, edges, own-field checks.

Whether the degrees fit the number of ranks is said by `mesh.Degrees`, which knows the world.
"""

import difflib
import math
from dataclasses import dataclass, field
from enum import StrEnum

DEGREES = ("replicate", "shard", "context", "tensor", "pipeline", "expert")
SCHEDULES = (
    *("GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS"),
    *("InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"),
)


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
    bf16_pure = "bf16_pure"
    fp16 = "fp16"
    fp8 = "fp8"


class Float8Recipe(StrEnum):
    """What has a scale of its own in fp8: a whole tensor (fastest), or each row (more exact)."""

    tensorwise = "tensorwise"
    rowwise = "rowwise"


@dataclass(kw_only=True, slots=True)
class PrecisionConfig:
    """The group `precision`."""

    name: PrecisionName = PrecisionName.fp32
    """Dtype policy. tf32 needs CUDA. bf16 and fp16 keep fp32 parameters, fp16 with a loss scale;
    bf16_pure keeps bfloat16 ones, whose steps are rounded by lot; fp8 is bf16 whose blocks' matrix
    products are in float8, on CUDA from compute capability 8.9."""
    full: list[str] = field(default_factory=list)
    """Globs of names of modules that compute in fp32, on fp32 parameters, whatever the policy, such
    as "*norm"; `*` crosses dots. Their inputs are cast to fp32, their outputs back."""
    recipe: Float8Recipe = Float8Recipe.tensorwise
    """How fp8 scales; used where name is fp8."""
    emulate: bool = False
    """Whether fp8's rounding is computed in other dtypes, on any device, slowly: for tests; used
    where name is fp8."""


class ContextAttention(StrEnum):
    """How attention crosses the ranks of a sequence; `attention` says what each one costs."""

    gather = "gather"
    ulysses = "ulysses"
    ring = "ring"


class Recompute(StrEnum):
    """Which activations are computed again in backward instead of kept."""

    none = "none"
    full = "full"
    selective = "selective"
    budget = "budget"


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
    """Number of ranks that the layers are cut over; at least 1."""
    expert: int = 1
    """Number of ranks that share the experts of one layer, out of shard x context; at least 1."""
    schedule: str = "1F1B"
    """Pipeline schedule by torch's name, or the path of a CSV file; used where pipeline > 1."""
    stages_per_rank: int = 0
    """Pipeline stages on each rank; 0 is what the schedule needs (1, or 2 for looped ones)."""
    microbatches: int = 0
    """Micro-batches of a pipeline step; 0 is as many as a rank's share of the batch has, any other
    number must be that."""
    sequence_parallel: bool = True
    """Whether what lies between the cut matrices is cut along the sequence; used where
    tensor > 1 and the model's plan has it."""
    async_tensor: bool = False
    """Whether torch overlaps tensor-parallel communication with matrix products; CUDA and
    memory.compile only."""
    context_attention: ContextAttention = ContextAttention.gather
    """How attention crosses ranks where context > 1; ring is torch's own, on CUDA only."""
    reshard_after_forward: bool = True
    """Frees a block's gathered parameters between its forward and backward: less memory, more
    traffic. Where pipeline > 1 they are kept for the whole step."""
    exact: bool = False
    """Whether the bits of weights, optimizer state and losses are the same on any number of ranks
    that share samples (replicate x shard), all other degrees as they are."""
    device: DeviceKind = DeviceKind.auto
    """Kind of device that the job runs on."""
    timeout_seconds: float = 600.0
    """Deadline of one collective in seconds; above 0."""

    def __post_init__(self) -> None:
        for name in DEGREES:
            _check_degree(name, getattr(self, name))
        for name in ("microbatches", "stages_per_rank"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"parallel.{name}: found {getattr(self, name)}, needed 0 or more; "
                    "set 0 to take what fits"
                )
        _check_schedule(self.schedule)
        if not (math.isfinite(self.timeout_seconds) and self.timeout_seconds > 0):
            raise ValueError(
                f"parallel.timeout_seconds: found {self.timeout_seconds}, needed a finite number "
                "of seconds above 0; set 600 for ten minutes"
            )


@dataclass(kw_only=True, slots=True)
class MemoryConfig:
    """The group `memory`: what is kept, what is computed again, what is fused."""

    recompute: Recompute = Recompute.none
    """Activations that backward computes again: none; full (all of a block's); selective (all but
    matrix products, attention and what was communicated); budget (compiled blocks only: what
    torch's partitioner picks to keep `activation_budget` of them)."""
    recompute_every: int = 1
    """Every how-manieth block `recompute` takes; 1 is all of them."""
    activation_budget: float = 0.5
    """Part of the activations that recompute=budget keeps, 0 to 1."""
    offload_activations: bool = False
    """Whether the activations that blocks keep wait in the host's memory for the backward. With
    recompute=full these are a block's inputs; not together with selective."""
    offload_parameters: bool = False
    """Whether parameters, gradients and optimizer state live in the host's memory."""
    compile: bool = False
    """Whether each block is compiled by torch.compile."""
    loss_chunk_tokens: int = 1024
    """Tokens whose logits exist at once in a language model's loss; at least 1."""

    def __post_init__(self) -> None:
        for name in ("recompute_every", "loss_chunk_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"memory.{name}: found {getattr(self, name)}, needed 1 or more; set 1"
                )
        if not 0 <= self.activation_budget <= 1:
            raise ValueError(
                f"memory.activation_budget: found {self.activation_budget}, needed 0 to 1; set 0.5"
            )
        if self.recompute is Recompute.budget and not self.compile:
            raise ValueError(
                "memory.recompute=budget: found memory.compile=false, needed compiled blocks, for "
                "the budget is torch.compile's; set memory.compile=true or "
                "memory.recompute=selective"
            )


def _check_degree(name: str, found: int) -> None:
    if name == "shard" and found == -1:
        return
    if found < 1:
        or_rest = ", or -1 for all ranks that are left" if name == "shard" else ""
        raise ValueError(
            f"parallel.{name}: found {found}, needed 1 or more{or_rest}; set parallel.{name}=1"
        )


def _check_schedule(found: str) -> None:
    if found in SCHEDULES or found.endswith(".csv"):
        return
    by_lower = {name.lower(): name for name in SCHEDULES}
    starts = [name for name in by_lower if name.startswith(found.lower())]
    close = starts or difflib.get_close_matches(found.lower(), by_lower, n=1) or ["1f1b"]
    raise ValueError(
        f"parallel.schedule: found {found!r}, needed one of {', '.join(SCHEDULES)} or the path of "
        f"a .csv file; set parallel.schedule={by_lower[close[0]]}"
    )
