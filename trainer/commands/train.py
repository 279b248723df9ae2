"""`keepstep train`: the main job on one rank; the same overrides as under torchrun."""

from ..identity import text_label
from ..language_model import language_model
from ..loop import Trainer
from ..supervise import supervise
from .completion import Overrides


def train(overrides: Overrides = None) -> None:
    """Trains the configured language model; returns when it is done.

    Example: keepstep train train.steps=50 optim=lion
    """
    supervise(Trainer.fit, language_model, overrides or [], label=text_label)
