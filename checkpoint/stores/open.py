"""A place by its URL: which store serves it, with which library."""

import importlib.util
import re

from ..config import PlaceConfig, Transport
from .filesystem import FsspecWire
from .local import LocalStore
from .objects import ObjectStore
from .obstore import ObstoreWire, is_able
from .pace import Pace
from .s3 import S3Wire
from .store import Store
from .wire import Wire

_S3 = ("s3", "s3a")
_SECRET = re.compile(r"^[\w+.-]+://[^/]*@|\?")


def open_place(url: str, config: PlaceConfig | None = None) -> Store:
    """The place that a path or URL names; nothing is asked of it yet.

    Paths and file:// are folders; s3:// goes through obstore or botocore, which behave alike; any
    other scheme is an fsspec file system's.

    Raises:
        ValueError: the URL is none, or holds credentials, or the library for it is not installed.
    """
    config = config or PlaceConfig()
    scheme, has_scheme, path = url.partition("://")
    if not has_scheme or scheme == "file":
        pace = Pace(config.write_bytes_per_second) if config.write_bytes_per_second else None
        return LocalStore(path if has_scheme else url, pace=pace)
    if _SECRET.search(url):
        raise ValueError(
            f"checkpoint.path: found a {scheme}:// URL with a user, a password or a query in it, "
            "needed a plain one, since it is written to logs; give credentials as the store's SDK "
            "finds them"
        )
    if scheme in _S3:
        bucket, _, key = path.partition("/")
        return ObjectStore(_s3(bucket, config), url.rstrip("/"), key.strip("/"), config)
    wire, prefix = _filesystem(url, scheme, config)
    return ObjectStore(wire, url.rstrip("/"), prefix, config)


def _s3(bucket: str, config: PlaceConfig) -> Wire:
    if not bucket:
        raise ValueError(
            "checkpoint.path: found an s3:// URL without a bucket, needed s3://BUCKET/FOLDER; "
            "correct the URL"
        )
    if config.transport is Transport.obstore and importlib.util.find_spec("obstore") is None:
        raise ValueError(
            "checkpoint.store.transport: found obstore but no such package, needed it; run "
            "`pip install keepstep[s3]` or set checkpoint.store.transport=auto"
        )
    if config.transport is Transport.obstore or (config.transport is Transport.auto and is_able()):
        return ObstoreWire(bucket, config)
    return S3Wire(bucket, config)


def _filesystem(url: str, scheme: str, config: PlaceConfig) -> tuple[Wire, str]:
    import fsspec

    if config.transport is Transport.obstore:
        raise ValueError(
            f"checkpoint.store.transport=obstore: found {scheme}://, needed s3://; set "
            "checkpoint.store.transport=auto"
        )
    try:
        filesystem, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"checkpoint.path: found {scheme}://, for which fsspec has no file system here "
            f"({error}), needed one; install it, or correct the URL"
        ) from error
    return FsspecWire(filesystem), str(path).rstrip("/")
