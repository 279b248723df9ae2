"""A model in stages: where it is cut, a rank's stages as one module, and torch's schedules."""

from .cut import fewest_microbatches
from .schedule import Pipeline
from .stages import Call, Stages, lent_parameters

__all__ = ["Call", "Pipeline", "Stages", "fewest_microbatches", "lent_parameters"]
