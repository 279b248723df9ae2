"""Places that hold checkpoints: folders, buckets and any fsspec file system, which behave alike.

A place creates objects whole or not at all and never over one another; what they mean is not its
affair.
"""

from .local import LocalStore
from .objects import ObjectStore
from .open import open_place
from .pace import Piece
from .probe import is_exclusive
from .store import Reads, Source, Store, read_bytes

__all__ = [
    "LocalStore",
    "ObjectStore",
    "Piece",
    "Reads",
    "Source",
    "Store",
    "is_exclusive",
    "open_place",
    "read_bytes",
]
