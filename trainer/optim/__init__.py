"""What turns gradients into steps: the configured optimizer, its learning rates, and its state.

A room of its own since each optimizer is one idea, and what they share (whole matrices out of
shards, rounding by lot, positions of a shard's elements) is nobody else's business.
"""

from .build import build_optimizer
from .rates import LearningRates
from .state import forget_state, materialise_state

__all__ = ["LearningRates", "build_optimizer", "forget_state", "materialise_state"]
