"""What a person asks of a dataset: is it whole, what is in it, what is read when, and how fast."""

from .bench import Measured, bench
from .check import Checked, check, check_dataset, is_prepared
from .describe import Described, describe, histogram
from .explain import Explained, Piece, explain
from .lock import is_local, write_lock_of

__all__ = [
    "Checked",
    "Described",
    "Explained",
    "Measured",
    "Piece",
    "bench",
    "check",
    "check_dataset",
    "describe",
    "explain",
    "histogram",
    "is_local",
    "is_prepared",
    "write_lock_of",
]
