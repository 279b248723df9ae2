"""A held-out source in plain order, dealt to the readers."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from ..sources import Source


def evaluation_batches(
    source: Source, *, microbatch_samples: int, reader_index: int = 0, reader_count: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Every sample once, in plain order: micro-batches dealt round to the readers.

    The last micro-batch may be short. Every reader is given equally many, so that collectives
    line up: where they run out the rest is batches of 0 rows.
    """
    count = len(source)
    for first in range(0, count, microbatch_samples * reader_count):
        start = min(count, first + reader_index * microbatch_samples)
        stop = min(count, start + microbatch_samples)
        yield source.read(np.arange(start, stop, dtype=np.int64))
