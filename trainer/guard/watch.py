"""What the guards remember of a run: its usual norms and losses, where it went back, and up to
which step copies were equal. Part of a checkpoint, equal on all ranks; it does nothing."""

from dataclasses import astuple, dataclass
from typing import Any, final

from ..history import LossHistory, NormHistory
from .config import GuardConfig
from .findings import Spike


@dataclass(frozen=True, slots=True)
class Rolled:
    """One rollback: samples from `first` up to, not including, `end` are left out for good."""

    met: int
    """Step (counted from 0) that met the spike."""
    to: int
    """Finished steps of the state that was gone back to."""
    first: int
    end: int


@final
class Watch:
    """Over one run, whatever is restarted."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self.norms = NormHistory()
        self.losses = LossHistory()
        self.norm_score: float | None = None
        """Of the norm that was judged last; None where nothing can be said of it."""
        self.rolled: list[Rolled] = []
        self.compared = 0
        """Finished steps at which copies were last found equal; what begins, begins equal."""

    def judge(self, loss: float, norm: float) -> Spike | None:
        """The spike that a step's loss and gradient norm are, before it is applied; None where they
        are usual, or not finite, or the history is short."""
        config = self._config
        self.norm_score = self.norms.score(norm)
        if len(self.norms) < config.history:
            return None
        loss_score = self.losses.score(loss) if config.loss_threshold else None
        judged = (
            ("gradient norm", norm, self.norm_score, config.norm_threshold),
            ("loss", loss, loss_score, config.loss_threshold),
        )
        for what, value, score, threshold in judged:
            if threshold and score is not None and score > threshold:
                return Spike(what=what, value=value, score=score)
        return None

    def add(self, loss: float, norm: float) -> None:
        """Remembers a step that was applied."""
        self.losses.add(loss)
        self.norms.add(norm)

    def is_too_often(self, position: int, batch_samples: int) -> bool:
        """Whether one more rollback, for a spike in the batch at `position`, is one too many."""
        since = position - self._config.rollback_steps * batch_samples
        return sum(one.end > since for one in self.rolled) >= self._config.max_rollbacks

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a manifest, by their names in it."""
        guard = {
            "losses": self.losses.state_dict(),
            "rolled": [list(astuple(one)) for one in self.rolled],
            "compared": self.compared,
        }
        return {"grad_norms": self.norms.state_dict(), "guard": guard}

    def take(self, saved: dict[str, Any]) -> None:
        """Takes its own out of a manifest's values; of an older release's some are not there."""
        self.norms.load_state_dict(saved.pop("grad_norms", []))
        guard = saved.pop("guard", {})
        self.losses.load_state_dict(guard.get("losses", []))
        self.rolled = [Rolled(*one) for one in guard.get("rolled", [])]
        self.compared = int(guard.get("compared", 0))
