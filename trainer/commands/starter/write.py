"""The files of the starter project -> a folder of a person's, whole or not at all."""

import os
import secrets
import shutil
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ...errors import ConfigError

_DOTTED = {"gitignore": ".gitignore"}  # packages leave out files whose names begin with a dot
_TITLE = "PROJECT"
_LEFT_OUT = ("__pycache__",)


def write_project(folder: Path) -> list[Path]:
    """Writes the project beside its place and moves it there when all of it is written.

    Returns:
        its files, in order, relative to the folder.

    Raises:
        ConfigError: something is there already.
        OSError: it cannot be written; nothing is left then.
    """
    target = folder.absolute()
    _check(folder, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        _copy(files(__package__) / "project", draft, title=target.name)
        os.rename(draft, target)  # over an empty folder, and no other
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())


def _check(folder: Path, target: Path) -> None:
    remedy = "name another one"
    if target == Path.cwd():
        raise ConfigError(f"{folder}: found this folder itself, needed one inside it; {remedy}")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ConfigError(f"{folder}: found a file, needed a folder that is new or empty; {remedy}")
    if target.is_dir() and (names := sorted(os.listdir(target))):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise ConfigError(
            f"{folder}: found {shown} in it, needed a folder that is new or empty; {remedy}"
        )


def _copy(source: Traversable, target: Path, *, title: str) -> None:
    target.mkdir()
    for one in source.iterdir():
        path = target / _DOTTED.get(one.name, one.name)
        if one.is_dir():
            if one.name not in _LEFT_OUT:
                _copy(one, path, title=title)
            continue
        content = one.read_bytes()
        if one.name == "README.md":
            content = content.replace(_TITLE.encode(), title.encode())
        path.write_bytes(content)
