"""A listing of an object store, of what its client can say: keys below a prefix, and one key."""

from collections.abc import Callable, Mapping

from ..errors import DataError, MissingError
from .answers import missing
from .names import chosen, root
from .store import StoredObject

Facts = Mapping[str, tuple[int, str]]
"""Size and tag of objects by key."""


def split(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of an object store's URL."""
    scheme, _, path = url.partition("://")
    bucket, _, key = path.partition("/")
    if not bucket:
        raise DataError(f"{url}: found no bucket, needed {scheme}://BUCKET/KEY; correct the URL")
    return scheme, bucket, key


def listing(
    url: str, below: Callable[[str], Facts], stat: Callable[[str], StoredObject]
) -> list[StoredObject]:
    """All objects that `url` stands for.

    Prefixes are never asked for with a delimiter: some stores keep folders that are long empty.

    Args:
        below: answers the objects whose keys begin with a prefix; "" or ends in a slash.
        stat: answers one object by its URL.

    Raises:
        MissingError: there is nothing at or below a URL without a glob.
    """
    scheme, bucket, key = split(url)
    path = key.rstrip("/")
    top = root(path)
    place = f"{scheme}://{bucket}"
    facts = dict(below(f"{top}/" if top else ""))
    if top == path and key == path and key:
        try:
            found = stat(f"{place}/{key}")
            facts[key] = found.size, found.tag
        except MissingError:
            pass
    names = chosen(path, list(facts))
    if not names and top == path:
        raise missing(url)
    return [StoredObject(f"{place}/{name}", *facts[name]) for name in names]
