"""Stores: byte ranges of objects behind any URL, read once and honestly.

A store moves bytes and says what went wrong; retries, deadlines, order and caching belong to
others.
"""

from .local import LocalStore
from .store import Store, StoredObject

__all__ = ["LocalStore", "Store", "StoredObject"]
