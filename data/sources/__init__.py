"""Readers of records, one file a format, behind one Protocol: ids in, one batch of tensors out.

A source knows how many samples it holds and what they are; not in which order they are seen.
"""

from .source import (
    Fixed,
    FixedColumn,
    Locatable,
    Placed,
    Record,
    Records,
    Source,
    Stored,
    Timed,
    Tokens,
    locatable,
    reading,
    spending,
)
from .subset import Subset
from .tensors import TensorSource

__all__ = [
    "Fixed",
    "FixedColumn",
    "Locatable",
    "Placed",
    "Record",
    "Records",
    "Source",
    "Stored",
    "Subset",
    "TensorSource",
    "Timed",
    "Tokens",
    "locatable",
    "reading",
    "spending",
]
