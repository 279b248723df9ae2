"""What a run is told of its numerical guards."""

import math
from dataclasses import dataclass
from enum import StrEnum

from ..require import require


class OnSpike(StrEnum):
    """What is done about a loss or gradient norm that stands out."""

    skip = "skip"
    rollback = "rollback"
    stop = "stop"


@dataclass(kw_only=True, slots=True)
class GuardConfig:
    """Spikes of loss and gradient, and bits that changed by themselves."""

    norm_threshold: float = 10.0
    """Robust standard deviations of its logarithm above the last steps' at which a gradient norm is
    a spike; one of them counts as 0.1 at least, so 10 are a factor of e or more; 0: never."""
    loss_threshold: float = 10.0
    """The same for the loss, of which one counts as 0.03 at least, so 10 are a third or more (of
    its logarithm where losses are positive, else of itself); 0: never."""
    history: int = 64
    """Applied steps, 16 to 128, before which nothing is judged; the last 128 are judged by."""
    on_spike: OnSpike = OnSpike.skip
    """skip: leave the batch out; rollback: go back to a snapshot in memory too, and leave out all
    samples since; stop: end the run."""
    rollback_snapshots: int = 1
    """How many snapshots to go back, not counting that of the state which met the spike; with fewer
    (recovery.slots) to the oldest there is, and without any the batch is skipped. How far that is
    depends on measured times unless recovery.snapshot_every is a number."""
    max_rollbacks: int = 3
    """Rollbacks within `rollback_steps` after which a further spike stops the run."""
    rollback_steps: int = 1000
    """Steps' worth of samples over which rollbacks are counted."""
    compare_every: int = 100
    """Steps between comparisons of the parameters of copies, where parallel.replicate > 1; each
    checkpoint is preceded by one too; 0: never, before checkpoints neither."""
    replay_every: int = 0
    """Steps between replays, in which each rank computes a random micro-batch twice and compares
    all bits, at the cost of two micro-batches; 0: never."""

    def __post_init__(self) -> None:
        for name in ("norm_threshold", "loss_threshold"):
            value = getattr(self, name)
            holds = value >= 0 and math.isfinite(value)
            require(holds, f"guard.{name}", value, "0 or more", "set 0 to switch it off")
        for name in ("max_rollbacks", "compare_every", "replay_every"):
            value = getattr(self, name)
            require(value >= 0, f"guard.{name}", value, "0 or more", "set 0 for none")
        for name in ("rollback_snapshots", "rollback_steps"):
            value = getattr(self, name)
            require(value >= 1, f"guard.{name}", value, "1 or more", "set a positive number")
        require(16 <= self.history <= 128, "guard.history", self.history, "16 to 128", "set 64")
