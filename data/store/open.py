"""A URL -> the store that holds it."""

from typing import Any

from ..errors import DataError
from . import obstore
from .config import StoreConfig, Transport
from .filesystem import FsspecStore
from .local import LocalStore
from .s3 import S3Store
from .store import Store


def open_store(url: str, config: StoreConfig | None = None) -> Store:
    """The store for `url` and all others of its scheme. Nothing is connected to yet.

    Paths and file:// are LocalStore; s3:// goes through obstore or s3fs, which behave alike; every
    other scheme is fsspec's.

    Raises:
        DataError: the transport does not know the scheme, or its package is not installed.
    """
    config = config or StoreConfig()
    scheme, mark, _ = url.partition("://")
    if not mark or scheme == "file":
        return LocalStore()
    if scheme in obstore.SCHEMES:
        if config.transport is Transport.fsspec:
            return S3Store(config)
        if config.transport is Transport.obstore or obstore.is_able():
            return obstore.ObstoreStore(config)
        return S3Store(config)
    if config.transport is Transport.obstore:
        raise DataError(
            f"data.store.transport: found obstore for {url}, needed one of "
            f"{', '.join(obstore.SCHEMES)}; set data.store.transport=auto"
        )
    return FsspecStore(lambda: _filesystem(scheme, url))


def _filesystem(scheme: str, url: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(scheme, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{url}: found no filesystem for {scheme}:// ({error}), needed an fsspec package "
            "that has one; install it, or correct the URL"
        ) from error
