"""The loss scale of fp16: keeps small gradients from vanishing. Whether a step overflowed is voted
by the whole world, so the scale is the same everywhere (torch's diverges over stages, hazard T6).

Source: mixed precision training, arXiv 1710.03740, section 3.2; the constants are torch.amp's.
"""

from dataclasses import dataclass
from typing import final

_GROWTH, _BACKOFF, _GROWTH_STEPS = 2.0, 0.5, 2000
_LARGEST, _SMALLEST = 2.0**24, 2.0**-14


@final
@dataclass(slots=True)
class LossScale:
    """What the loss is multiplied by before backward, and its gradients are divided by after."""

    scale: float = 1.0
    enabled: bool = False
    """Whether it moves; elsewhere it stays at 1, which changes no bit."""
    steps_since_change: int = 0

    @classmethod
    def for_fp16(cls) -> "LossScale":
        """Begins at 2^16."""
        return cls(scale=2.0**16, enabled=True)

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may be the scale's fault."""
        return self.enabled and self.scale > _SMALLEST

    def update(self, *, overflowed: bool) -> None:
        """Halves the scale after an overflow, doubles it after 2,000 steps without one."""
        if not self.enabled:
            return
        self.steps_since_change += 1
        if overflowed:
            self._set(self.scale * _BACKOFF)
        elif self.steps_since_change >= _GROWTH_STEPS:
            self._set(self.scale * _GROWTH)

    def _set(self, scale: float) -> None:
        self.scale, self.steps_since_change = min(_LARGEST, max(_SMALLEST, scale)), 0

    def state_dict(self) -> dict[str, float | int]:
        """Plain numbers for a manifest."""
        return {"scale": self.scale, "steps_since_change": self.steps_since_change}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Takes over the numbers of a manifest; a run that has no scale keeps its 1."""
        if self.enabled:
            self.scale = float(state["scale"])
            self.steps_since_change = int(state["steps_since_change"])
