"""Which of a store's names a URL stands for. Pure text, the same for every store.

In a glob, * and ? stay within one part of a path, ** crosses parts, [abc] is one of these.
"""

import re

_MAGIC = re.compile(r"[*?\[]")
_PIECE = re.compile(r"\*\*/?|\*|\?|\[!?[^\]]+\]|.", re.DOTALL)


def root(path: str) -> str:
    """What to list for `path`: itself, or the folder before the first part with a glob in it."""
    found = _MAGIC.search(path)
    return path if found is None else path[: found.start()].rpartition("/")[0]


def chosen(path: str, names: list[str]) -> list[str]:
    """Those of `names`, all at or below root(path), that `path` stands for, in order.

    Left out are names of which a part below the root begins with a dot, or that end in a slash.
    """
    top = root(path)
    if top != path:
        matches = re.compile(_expression(path)).fullmatch
        names = [name for name in names if matches(name)]
    else:
        below = f"{path.rstrip('/')}/" if path else ""
        names = [name for name in names if name == path or name.startswith(below)]
    return sorted(name for name in names if not name.endswith("/") and not _is_hidden(name, top))


def _is_hidden(name: str, top: str) -> bool:
    below = name[len(top) :] if name != top else name.rpartition("/")[2]
    return any(part.startswith(".") for part in below.split("/"))


def _expression(path: str) -> str:
    return "".join(_translate(piece) for piece in _PIECE.findall(path))


def _translate(piece: str) -> str:
    if piece.startswith("**"):
        return "(?:.*/)?" if piece.endswith("/") else ".*"
    if piece in "*?":
        return "[^/]*" if piece == "*" else "[^/]"
    if len(piece) > 1:
        inner = piece[1:-1].replace("\\", r"\\")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(piece)
