"""What a person asks of a dataset: is it whole, what is in it, what is read when, and how fast."""

from .check import Checked, check, check_dataset
from .lock import is_local, write_lock_of

__all__ = ["Checked", "check", "check_dataset", "is_local", "write_lock_of"]
