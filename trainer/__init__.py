"""The loop and its time, the processes around it, what a person sees: the room that knows all."""

from .config import RunConfig
from .errors import ConfigError, StoppedError
from .loop import Trainer
from .recipe import Batch, Recipe
from .supervise import supervise

__all__ = ["Batch", "ConfigError", "Recipe", "RunConfig", "StoppedError", "Trainer", "supervise"]
