"""What a person asks of a dataset: is it whole, what is in it, what is read when, and how fast."""

from .check import Checked, check, check_dataset
from .explain import Explained, Piece, explain
from .lock import is_local, write_lock_of

__all__ = [
    "Checked",
    "Explained",
    "Piece",
    "check",
    "check_dataset",
    "explain",
    "is_local",
    "write_lock_of",
]
