"""A source in its order as torch's iterable dataset: whole batches, the same for any workers."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch.utils.data
from torch import Tensor

from ..errors import DataError
from ..loader import Loader
from ..order import Cursor, Mixture, Order
from ..order.permutation import Integers
from ..sources import Source
from .opened import Opened, Opener


@final
class StreamDataset(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """This rank's part of one batch after another: give it to DataLoader(..., batch_size=None).

    Worker processes take batches in turn, and the DataLoader takes them from the workers in the
    same turn: what comes out is one sequence for any num_workers, and all of its state is one
    position. Where nothing is to be worked out in Python, `Loader` is faster: its threads need no
    other process.

    Args:
        source: one, or a function that opens it, called in each process that reads; a function is
            needed with num_workers > 0 where samples come from objects.
        order: of the source's samples.
        batch_samples: of a batch, over all ranks.
        position: where to begin, in samples.
        stop: a position; the batch that would pass it is not read. None: without end, epochs
            follow one another.
        rank, world_size: which part of each batch is read here, as plain numbers.
        prefetch: batches that are read ahead, in each process that reads.

    Raises:
        DataError: the batch cannot be shared equally.
    """

    def __init__(
        self,
        source: Source | Opener,
        order: Order | Mixture,
        *,
        batch_samples: int,
        position: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
    ) -> None:
        if batch_samples < 1 or batch_samples % world_size or not 0 <= rank < world_size:
            raise DataError(
                f"StreamDataset batch_samples: found {batch_samples} for rank {rank} of "
                f"{world_size}, needed a positive multiple of world_size and a rank below it; set "
                f"batch_samples={max(1, batch_samples // world_size) * world_size}"
            )
        self._opened = Opened(source)
        self._order = order
        self._batch_samples = batch_samples
        self._stop = stop
        self._rank = rank
        self._world_size = world_size
        self._prefetch = prefetch
        self._cursor = Cursor(order.recipe, position)
        self._handed = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """From the position on that was given or loaded last, each time anew."""
        worker = torch.utils.data.get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        position = self._cursor.position
        loader = Loader(
            self._opened.source(),
            Strided(self._order, self._batch_samples, position, index, count),
            batch_samples=self._batch_samples,
            microbatch_samples=self._batch_samples // self._world_size,
            reader_index=self._rank,
            reader_count=self._world_size,
            prefetch=self._prefetch,
        )
        self._handed = 0
        number = index
        if self._is_past(position, number):
            return
        with loader.open(position):
            while not self._is_past(position, number):
                batch = next(loader).batches[0]
                number += count
                # Before the batch is out: whoever has it may ask for the state at once.
                self._handed += 1
                yield batch

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """The position after so many batches of the present iteration, as JSON; the same on every
        rank, and good for any number of ranks and workers.

        Args:
            batches: how many the training loop has used. None: as many as were handed out, which
                is known with num_workers=0 alone.
        """
        taken = self._handed if batches is None else batches
        position = self._cursor.position + taken * self._batch_samples
        return Cursor(self._order.recipe, position).state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the position over, for the next iteration; workers that are kept from one to the
        next (persistent_workers) do not hear of it.

        Raises:
            DataError: the state belongs to another order.
        """
        self._cursor.load_state_dict(state)
        self._handed = 0

    def _is_past(self, position: int, number: int) -> bool:
        stop = self._stop
        return stop is not None and position + (number + 1) * self._batch_samples > stop


@final
class Strided:
    """Every `count`-th batch of an order from position `origin` on, the `index`-th one first, in
    the numbering of a loader that knows of no others."""

    def __init__(
        self, order: Order | Mixture, batch: int, origin: int, index: int, count: int
    ) -> None:
        self._order = order
        self._batch = batch
        self._origin = origin
        self._index = index
        self._count = count

    @property
    def pool_samples(self) -> int:
        return self._order.pool_samples // self._count

    def samples(self, positions: Integers) -> tuple[Integers, Integers]:
        return self._order.samples(positions)

    def arrange(self, start: int, size: int, batches: int = 1) -> Integers:
        starts = range(start, start + size * batches, size)
        arranged = [self._order.arrange(self._real(one), size) for one in starts]
        every: Integers = np.concatenate(arranged)
        return every

    def next_use(self, ids: Integers, position: int) -> Integers:
        found = self._order.next_use(ids, self._real(position)) - self._origin
        uses: Integers = self._origin + found // self._count
        return uses

    def _real(self, position: int) -> int:
        number = (position - self._origin) // self._batch
        return self._origin + (number * self._count + self._index) * self._batch
