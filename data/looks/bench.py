"""How fast a run's data comes, cold and warm: read as a run reads it, as fast as it can be."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..config import DataConfig
from ..corpus import open_corpus, order_of
from ..corpus.supply import Supply
from ..loader import Loader, Window

Report = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class Measured:
    """One reading of some seconds from position 0."""

    seconds: float = 0.0
    """From the loader's opening to its last batch."""
    samples: int = 0
    bytes: int = 0
    """Of the tensors handed out."""
    first_batch_seconds: float = 0.0
    longest_stall_seconds: float = 0.0
    """The longest wait for a batch after the first."""
    waited_seconds: dict[str, float] = field(default_factory=dict)
    """Of the reading threads, by cause: network, lock, decode, transform."""
    counts: dict[str, float] = field(default_factory=dict)
    """Of accesses, fetchers and caches; see `access.total_counts`. {} for local files."""

    def as_dict(self) -> dict[str, Any]:
        """All of it, with the rates."""
        seconds = max(self.seconds, 1e-9)
        rates = {
            "samples_per_second": self.samples / seconds,
            "megabytes_per_second": self.bytes / seconds / 1e6,
        }
        return {**rates, **asdict(self)}


def bench(
    config: DataConfig,
    *,
    batch_samples: int,
    seconds: float,
    extents: Path | None = None,
    report: Report,
) -> dict[str, Measured]:
    """ "cold" and then "warm": each reads on from position 0 for `seconds`. Blocks.

    Text is prepared, and locks are kept, where runs keep them; that is not measured.

    Args:
        extents: the folder of the cache of extents, which is cold if it is new; None: a temporary
            one, deleted at the end.

    Raises:
        DataError: the data cannot be used.
    """
    with _folder(extents) as folder:
        return {
            word: _measure(config, batch_samples, seconds, folder, report)
            for word in ("cold", "warm")
        }


def _measure(
    config: DataConfig, batch_samples: int, seconds: float, folder: Path, report: Report
) -> Measured:
    supply = Supply(config, report, extents=folder)
    corpus = open_corpus(config, report=report, supply=supply)
    loader = Loader(
        corpus.train,
        order_of(corpus.train, config),
        batch_samples=batch_samples,
        microbatch_samples=batch_samples,
        prefetch=config.prefetch_batches,
    )
    found, waited = Measured(), Counter[str]()
    try:
        begun = before = time.perf_counter()
        with loader.open(0) as windows:
            while before - begun < seconds or not found.samples:
                window = next(windows)
                now = time.perf_counter()
                if found.samples:
                    found.longest_stall_seconds = max(found.longest_stall_seconds, now - before)
                else:
                    found.first_batch_seconds = now - begun
                found.samples += batch_samples
                found.bytes += _bytes(window)
                waited.update(window.seconds)
                before = now
            found.seconds = before - begun
            found.counts = loader.counts
        found.waited_seconds = dict(waited)
    finally:
        loader.close()
        corpus.close()
    return found


def _bytes(window: Window) -> int:
    return sum(tensor.nbytes for batch in window.batches for tensor in batch.values())


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="keepstep-bench-") as name:
        yield Path(name)
