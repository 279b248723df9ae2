"""Documents of token arrays that only an end token tells apart: found by one pass over them."""

from dataclasses import replace

import numpy as np

from ...dataset import Dataset
from ...store import Store
from ..pieces import pieces
from ..source import Ids


def with_documents(store: Store, dataset: Dataset, end_token: int | None) -> Dataset:
    """The dataset with the first token of each document, one after every `end_token`.

    Reads every byte; None leaves the dataset as it is.
    """
    if end_token is None or not int(dataset.counts.sum()):
        return dataset
    dtype = np.dtype(dataset.facts["dtype"])
    starts: list[Ids] = [np.zeros(1, dtype=np.int64)]
    base = 0
    for place, obj in enumerate(dataset.objects):
        head, rest, seen = int(dataset.arrays["heads"][place]), b"", 0
        for piece in pieces(store, obj):
            skipped = min(head, len(piece))
            content, head = rest + piece[skipped:], head - skipped
            whole = len(content) // dtype.itemsize
            tokens = np.frombuffer(content, dtype=dtype, count=whole)
            tokens = tokens[: int(dataset.counts[place]) - seen]
            starts.append(np.flatnonzero(tokens == end_token) + base + seen + 1)
            seen, rest = seen + len(tokens), content[whole * dtype.itemsize :]
        base += int(dataset.counts[place])
    found = np.concatenate(starts)
    # What follows the last end token is no document where nothing follows.
    return replace(dataset, arrays={**dataset.arrays, "documents": found[found < base]})
