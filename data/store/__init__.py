"""Stores: byte ranges of objects behind any URL, read once and honestly.

A store moves bytes and says what went wrong; retries, deadlines, order and caching belong to
others.
"""

from .config import StoreConfig, Transport
from .filesystem import FsspecStore
from .local import LocalStore
from .obstore import ObstoreStore
from .open import open_store
from .patient import Patient
from .s3 import S3Store
from .store import Store, StoredObject

__all__ = [
    "FsspecStore",
    "LocalStore",
    "ObstoreStore",
    "Patient",
    "S3Store",
    "Store",
    "StoreConfig",
    "StoredObject",
    "Transport",
    "open_store",
]
