"""The room's sources in the clothes of others: torch's two kinds of datasets, and Grain's.

For those who have a loader of their own; `data.loader` needs none of these.
"""

from .indexed import GrainSource, IndexedDataset
from .stream import StreamDataset

__all__ = ["GrainSource", "IndexedDataset", "StreamDataset"]
