"""What a survey begins with: the objects of a folder by name, and indexes that are JSON.

Reads indexes whole and checks the kind of what it takes from them; knows no format.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, final

from ..errors import CorruptDataError, DataError, MissingError
from ..store import Store, StoredObject
from ..table import inside, join, relative

RESTORE = "restore it from a copy, or write the dataset again"


def base_url(url: str) -> str:
    """The URL as stores list it: an absolute path for a local one, no slash at its end."""
    if "://" in url and not url.startswith("file://"):
        return url.rstrip("/")
    return str(Path(url.removeprefix("file://")).expanduser().absolute())


@final
class Listing:
    """The objects of one folder, as the store lists them now."""

    def __init__(self, url: str, objects: Sequence[StoredObject]) -> None:
        self.url = url
        self.objects = {relative(obj.url, url): obj for obj in objects}

    @classmethod
    def of(cls, store: Store, url: str) -> Self:
        """Lists what lies at or below `url`; that of one object, or of a glob, is its folder's.

        Raises:
            DataError: nothing is there.
        """
        base = base_url(url)
        found = list_or_none(store, base)
        if not found:
            raise DataError(
                f"{url}: found no objects, needed the folder of a dataset; correct the URL"
            )
        is_folder = all(obj.url.startswith(base + "/") for obj in found)
        if is_folder and not any(letter in base for letter in "*?["):
            return cls(base, found)
        folder = base[: min((base.find(x) for x in "*?[" if x in base), default=len(base))]
        return cls(folder.rpartition("/")[0], found)

    def need(self, name: str, index: str) -> StoredObject:
        """The object that `index` names.

        Raises:
            CorruptDataError: it is not there.
            DataError: the name leaves the folder.
        """
        name = inside(name, index)
        if name not in self.objects:
            raise CorruptDataError(
                join(self.url, name), "no such object", f"it by {index}", RESTORE
            )
        return self.objects[name]

    def name(self, obj: StoredObject) -> str:
        """The object's name below the folder."""
        return relative(obj.url, self.url)

    def ending(self, *suffixes: str) -> list[StoredObject]:
        """The objects whose names end so, whatever the case, in order of their names."""
        names = sorted(name for name in self.objects if name.lower().endswith(suffixes))
        return [self.objects[name] for name in names]


def list_or_none(store: Store, url: str) -> list[StoredObject]:
    """What lies at or below `url`: nothing where there is no such folder, as buckets have it."""
    try:
        return store.list(url)
    except MissingError:
        return []


def read_json(store: Store, obj: StoredObject) -> dict[str, Any]:
    """The JSON object that `obj` holds.

    Raises:
        CorruptDataError: it holds something else.
    """
    try:
        body = json.loads(bytes(store.read(obj, 0, obj.size)))
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(obj.url, f"no JSON ({error})", "an index", RESTORE) from error
    if not isinstance(body, dict):
        raise CorruptDataError(obj.url, f"a {type(body).__name__}", "a JSON object", RESTORE)
    return body


def read_index(store: Store, url: str) -> tuple[str, dict[str, Any]]:
    """The URL and content of the index.json of the folder `url`.

    Raises:
        DataError: there is none.
    """
    try:
        obj = store.stat(join(base_url(url), "index.json"))
    except MissingError as error:
        raise DataError(
            f"{url}: found no index.json, needed it; give the folder that holds it (one split of "
            "several is a folder of its own)"
        ) from error
    return obj.url, read_json(store, obj)


def take(body: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """body[key], where it is of the kind asked for and, a whole number, not negative.

    Raises:
        CorruptDataError: it is not.
    """
    value = body.get(key) if isinstance(body, dict) else None
    is_wrong = not isinstance(value, kind) or isinstance(value, bool)
    if is_wrong or (isinstance(value, int) and not 0 <= value < 2**62):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise CorruptDataError(
            where, f"{key} = {str(value)[:80]}", f"{key} of type {names}", RESTORE
        )
    return value


def take_strings(body: Any, key: str, where: str) -> list[str]:
    """body[key], a list of strings, or CorruptDataError."""
    found: list[str] = take(body, key, list, where)
    if not all(isinstance(item, str) for item in found):
        raise CorruptDataError(where, f"{key} = {str(found)[:80]}", "a list of strings", RESTORE)
    return found
