"""A URL -> the file of its lock: surveyed, digested where asked for, written where it is found."""

from pathlib import Path

from ..access import QUICK, STRONG
from ..config import DataFormat
from ..corpus.locate import LOCK
from ..dataset import Dataset
from ..errors import DataError
from ..lock import Progress, lock, with_digests
from ..lockfile import write_lock
from ..seal import sign_lock
from ..sources.listing import base_url
from ..store import Store


def write_lock_of(
    url: str,
    store: Store,
    *,
    out: Path | None = None,
    format: DataFormat = DataFormat.auto,
    split: str | None = None,
    dtype: str | None = None,
    digests: bool | None = None,
    sign: Path | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, Dataset]:
    """Surveys what lies at `url` and writes its lock, all of it or nothing.

    A stop while digests are made loses little: they are kept beside the lock, and taken up there by
    the next call.

    Args:
        out: None: in the dataset's folder, where that is local, as every run looks for it there;
            else <name>.lock in the working directory.
        digests: whether every byte is read, for digests of extents; None: where it is local.
        sign: a private key; every byte is read, for SHA-256, and the lock is signed beside it.

    Raises:
        DataError: the data cannot be used, `out` would be taken for another dataset's lock, or
            another lock is there.
        CorruptDataError: an index is damaged, or an object is not what its writer recorded.
        StoreError: the store does not give what is asked for.
    """
    dataset = lock(url, store, format=format, split=split, dtype=dtype)
    path = out or _place(dataset, split)
    _check_name(path, dataset)
    algorithm = QUICK if sign is None else STRONG
    if sign is not None or (is_local(url) if digests is None else digests):
        path.parent.mkdir(parents=True, exist_ok=True)
        done = path.with_name(f".{path.name}.digests")
        dataset = with_digests(
            dataset,
            store,
            algorithm=algorithm,
            progress=progress,
            resume=done,
        )
        write_lock(dataset, path, replace=replace)
        done.unlink(missing_ok=True)
        if sign is not None:
            sign_lock(path, sign)
    else:
        write_lock(dataset, path, replace=replace)
    return path, dataset


def is_local(url: str) -> bool:
    """Whether it lies on a disk of this machine."""
    return "://" not in url or url.startswith("file://")


def _place(dataset: Dataset, split: str | None) -> Path:
    # A folder of prepared tokens holds several datasets: each of its splits has a lock.
    word = f"-{split or 'train'}" if dataset.format == DataFormat.tokens else ""
    if is_local(dataset.url):
        return Path(dataset.url) / LOCK.replace(".", f"{word}.")
    name = dataset.url.rstrip("/").rpartition("/")[2]
    return Path(f"{'lock-of-' if name.startswith('keepstep') else ''}{name}{word}.lock")


def _check_name(path: Path, dataset: Dataset) -> None:
    if path.name.startswith("keepstep") and str(path.absolute().parent) != base_url(dataset.url):
        raise DataError(
            f"{path}: found a name that is kept for locks inside of the folder they speak of, "
            f"needed another outside of {dataset.url}; do not let it begin with keepstep"
        )
