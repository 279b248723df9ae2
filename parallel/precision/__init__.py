"""In which dtypes a run computes, reduces and rests: the policy, the loss scale, float8, and what
stays in full precision by name."""

from .policy import Policy
from .scaler import LossScale

__all__ = ["LossScale", "Policy"]
