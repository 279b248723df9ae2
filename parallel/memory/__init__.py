"""What a forward keeps for its backward and where it waits, and what is compiled and overlapped."""

from .offload import apply_offload
from .overlap import overlap_tensor
from .recompute import apply_compile, apply_recompute

__all__ = ["apply_compile", "apply_offload", "apply_recompute", "overlap_tensor"]
