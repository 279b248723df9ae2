"""Is what a lock or a manifest speaks of still there, byte for byte? In any store."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..access import QUICK, STRONG, Cut, ExtentMap
from ..config import DataFormat
from ..corpus.locate import locked
from ..corpus.supply import Supply
from ..dataset import Dataset
from ..errors import ChangedError, CorruptDataError, DataError, DeniedError, MissingError
from ..lock import Progress, lock, object_digests, stored_ranges
from ..manifest import MANIFEST, parse_manifest
from ..sources.listing import base_url
from ..store import Store, StoredObject
from ..table import join
from ..verify import verify

_READERS = 8
_REMEDY = "restore the object from a copy, or lock the data again and start a new run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What was looked at, and what of it is wrong."""

    problems: list[str]
    """A sentence each, with the object's URL first."""
    objects: int
    bytes: int
    digested_bytes: int
    """Bytes that were read and compared with a digest; of the others sizes and tags only."""


def check(url: str, supply: Supply, *, progress: Progress | None = None) -> Checked:
    """Compares every object with the lock: a lock's own URL, or a folder that holds keepstep.lock
    or what `keepstep data prepare` wrote. Bytes are read where there is a digest of them.

    Args:
        progress: called with the bytes done and the bytes in all, from this thread.

    Raises:
        DataError: there is no lock there, nor a manifest.
        CorruptDataError: the lock itself is damaged.
        TransientError: the store does not answer for long.
    """
    found = locked(url, supply.store(url))
    if found is not None:
        # A lock may lie elsewhere than what it speaks of.
        return check_dataset(found, supply.store(found.url), progress=progress)
    if is_prepared(url):
        sizes = [path.stat().st_size for path in Path(url).iterdir() if path.is_file()]
        problems = verify(Path(url))
        return Checked(
            problems=problems, objects=len(sizes), bytes=sum(sizes), digested_bytes=sum(sizes)
        )
    return _check_prepared(url, supply.store(url), progress)


def is_prepared(url: str) -> bool:
    """Whether it is a folder of this machine that `keepstep data prepare` wrote, or tried to."""
    return "://" not in url and (Path(url) / MANIFEST).exists()


def check_dataset(dataset: Dataset, store: Store, *, progress: Progress | None = None) -> Checked:
    """The same for a dataset that was read from its lock."""
    checks = list(_checks(dataset, _listed(dataset, store)))
    total = sum(one.cost for one in checks)
    problems, done = [], 0
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="check")
    try:
        for one, problem in zip(checks, pool.map(lambda one: one.run(store), checks), strict=True):
            if problem is not None:
                problems.append(problem)
            done += one.cost
            if progress is not None:
                progress(done, total)
    finally:
        # After an interruption nobody waits for what was not begun.
        pool.shutdown(cancel_futures=True)
    return Checked(
        problems=problems,
        objects=len(checks),
        bytes=sum(one.needed.size for one in checks),
        digested_bytes=total,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    """One object, as the lock knows it."""

    needed: StoredObject
    found: StoredObject | None
    """As the store lists it; None where it does not."""
    recorded: str | None
    ranges: list[tuple[int, int]]
    """Of its extents, as stored; empty where there are no digests of them."""
    extents: npt.NDArray[np.uint8] | None

    @property
    def cost(self) -> int:
        """Bytes to read."""
        return self.needed.size if self.recorded or self.extents is not None else 0

    def run(self, store: Store) -> str | None:
        """What is wrong with it, in one sentence."""
        needed = self.needed
        try:
            found = self.found or store.stat(needed.url)
            if found.size != needed.size:
                return _said(needed, f"{found.size} bytes", f"{needed.size} bytes")
            problem = self._wrong_bytes(replace(needed, tag=found.tag), store)
        except (MissingError, DeniedError, ChangedError, CorruptDataError) as error:
            return str(error)
        if problem is None and needed.tag and found.tag != needed.tag:
            same = "bytes of the recorded digest under " if self.cost else ""
            return _said(needed, f"{same}the tag {found.tag}", f"the tag {needed.tag}")
        return problem

    def _wrong_bytes(self, obj: StoredObject, store: Store) -> str | None:
        if not self.cost:
            return None
        name, _, whole = (self.recorded or "").partition(":")
        is_ours = name in (QUICK, STRONG)
        recorded = None if is_ours else self.recorded
        algorithm = STRONG if name == STRONG else QUICK
        digest, *extents = object_digests(
            store, obj, self.ranges, recorded=recorded, algorithm=algorithm
        )
        if self.extents is not None:
            for (start, stop), needed, now in zip(self.ranges, self.extents, extents, strict=True):
                if bytes(needed).hex() != now:
                    where = f"other bytes in [{start}, {stop})"
                    return _said(obj, where, "those of the recorded digest")
        if is_ours and digest != whole:
            return _said(obj, f"digest {digest}", f"digest {whole}")
        return None


def _checks(dataset: Dataset, listed: dict[str, StoredObject]) -> Iterator[_Check]:
    table = dataset.extent_digests
    extents = ExtentMap(dataset, Cut.of(dataset))
    for place, obj in enumerate(dataset.objects):
        rows = None if table is None else table[extents.first(place) : extents.first(place + 1)]
        yield _Check(
            needed=obj,
            found=listed.get(obj.url),
            recorded=dataset.digests.get(dataset.name(obj)),
            ranges=[] if table is None else stored_ranges(extents, place, obj),
            extents=rows,
        )


def _listed(dataset: Dataset, store: Store) -> dict[str, StoredObject]:
    """One listing in place of a question an object; what it leaves out is asked for by itself."""
    with suppress(MissingError, DeniedError):
        return {obj.url: obj for obj in store.list(dataset.url)}
    return {}


def _check_prepared(url: str, store: Store, progress: Progress | None) -> Checked:
    """What `keepstep data prepare` wrote, in a store: its manifest has the digests."""
    place = join(base_url(url), MANIFEST)
    try:
        obj = store.stat(place)
        manifest = parse_manifest(bytes(store.read(obj, 0, obj.size)), place)
    except MissingError as error:
        raise DataError(
            f"{url}: found no keepstep.lock and no {MANIFEST}, needed one to compare with; run "
            f"keepstep data lock {url} while the data is known to be right"
        ) from error
    parts = [
        _surveyed(lambda split=split: lock(url, store, format=DataFormat.tokens, split=split))  # type: ignore[misc]
        for split in manifest.splits
    ]
    checked = [
        part if isinstance(part, Checked) else check_dataset(part, store, progress=progress)
        for part in parts
    ]
    return Checked(
        problems=[problem for one in checked for problem in one.problems],
        objects=sum(one.objects for one in checked),
        bytes=sum(one.bytes for one in checked),
        digested_bytes=sum(one.digested_bytes for one in checked),
    )


def _surveyed(survey: Callable[[], Dataset]) -> Dataset | Checked:
    """The dataset, or why there is none."""
    try:
        return survey()
    except CorruptDataError as error:
        return Checked(problems=[str(error)], objects=0, bytes=0, digested_bytes=0)


def _said(obj: StoredObject, found: str, needed: str) -> str:
    return str(CorruptDataError(obj.url, found, needed, _REMEDY))
