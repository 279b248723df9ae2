"""`keepstep train`: the main job on one rank; the same overrides as under torchrun."""

import typer

from ..identity import text_label
from ..language_model import language_model
from ..loop import Trainer
from ..supervise import supervise


def train(context: typer.Context) -> None:
    """Trains the configured language model; returns when it is done."""
    supervise(Trainer.fit, language_model, context.args, label=text_label)
