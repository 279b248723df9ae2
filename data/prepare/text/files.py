"""Which files a path, glob or fsspec URL stands for, with what tells one version from another.

Lists and names files; reads none of them.
"""

from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ...errors import DataError

_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of raw text."""

    name: str
    """Relative to what was asked for, so that a moved folder keeps its documents' names."""
    path: str
    size: int
    stamp: str
    """Changes when the content does: an ETag, a time or a package's version."""
    filesystem: fsspec.AbstractFileSystem = field(repr=False, compare=False)


def list_files(url: str) -> list[SourceFile]:
    """The files under `url` in order of their names; hidden ones are left out.

    Raises:
        DataError: an unknown protocol, nothing there, not readable, or no files.
    """
    try:
        filesystem, path = url_to_fs(url)
        root, found = _look(filesystem, path.rstrip("/") or path)
    except (ValueError, ImportError) as error:
        raise DataError(
            f"data.path: found {url!r} ({error}), needed a path or a URL of an installed fsspec "
            "filesystem; correct the URL or install its package (pip install keepstep[s3] for S3)"
        ) from error
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"data.path: found nothing at {url!r}, needed a file, folder, glob or URL of text; "
            "correct the path"
        ) from None
    except PermissionError as error:
        raise unreadable(url, error) from error
    files = [_source_file(filesystem, root, path, info) for path, info in sorted(found.items())]
    files = [file for file in files if not _is_hidden(file.name)]
    if not files:
        raise DataError(
            f"data.path: found no files at {url!r}, needed at least one with text in it; "
            "put text there or give another path"
        )
    return files


def unreadable(path: str, error: Exception) -> DataError:
    """The sentence for a file or folder that is there but may not be read."""
    return DataError(
        f"data.path: found {path} not readable ({error}), needed permission to read it; "
        "change its permissions or give another path"
    )


def _look(filesystem: fsspec.AbstractFileSystem, path: str) -> tuple[str, dict[str, Any]]:
    """The folder that names are relative to, and the files as path -> facts."""
    if "*" in path or "?" in path:
        found = filesystem.glob(path, detail=True)
        root = path[: min(path.find(c) for c in "*?[" if c in path)].rpartition("/")[0]
        return root, {name: info for name, info in found.items() if info["type"] == "file"}
    info = filesystem.info(path)
    if info["type"] != "directory":
        return path.rpartition("/")[0], {path: info}
    if isinstance(filesystem, LocalFileSystem):
        # fsspec's walk takes a folder that may not be listed for an empty one.
        filesystem.ls(path)
    return path, filesystem.find(path, detail=True)


def _source_file(
    filesystem: fsspec.AbstractFileSystem, root: str, path: str, info: dict[str, Any]
) -> SourceFile:
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key) is not None), "")
    name = path.removeprefix(root).lstrip("/")
    return SourceFile(name, path, int(info.get("size") or 0), stamp, filesystem)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
