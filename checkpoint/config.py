"""When checkpoints are written, where, and how many are kept: the values, not the writing."""

import math
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    path: str | None = None
    """Folder that holds this run's checkpoints; null means `checkpoints` in `run.dir`."""

    every_steps: int = 50
    """A checkpoint after each multiple of this many optimizer steps; 0 means never."""

    every_seconds: float = 0.0
    """A checkpoint once this many seconds have passed since the last; 0 means never."""

    keep: int = 3
    """How many of the newest whole checkpoints stay; older ones are removed. At least 1."""

    at_end: bool = True
    """Whether the last step is saved too, whatever the cadence."""

    def __post_init__(self) -> None:
        if self.path is not None and not self.path.strip():
            raise ValueError(
                f"checkpoint.path: found {self.path!r}, needed the name of a folder; set one, or "
                "null for `checkpoints` in run.dir"
            )
        if self.every_steps < 0:
            raise ValueError(
                f"checkpoint.every_steps: found {self.every_steps}, needed 0 or more steps; set 0 "
                "to save at the end only"
            )
        if not (math.isfinite(self.every_seconds) and self.every_seconds >= 0):
            raise ValueError(
                f"checkpoint.every_seconds: found {self.every_seconds}, needed 0 or more seconds; "
                "set 0 to leave the clock out of it"
            )
        if self.keep < 1:
            raise ValueError(
                f"checkpoint.keep: found {self.keep}, needed 1 or more; set how many are to stay"
            )
