"""What the loader hands out: one reader's part of one optimizer step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """What one reader computes of one optimizer step."""

    position: int
    """Position of the step's first sample; the next step begins `batch_samples` later."""
    batches: list[dict[str, Tensor]]
    """This reader's micro-batches, in order; the first dimension is `microbatch_samples`."""
    microbatches: range
    """Their numbers among all micro-batches of the step."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What its reading took, by cause: "network", "lock", "transform", and "decode" for the rest.
    All of it happened ahead of use; where a step waited, its wait had these causes."""
