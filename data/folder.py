"""The folder of this user's data that can be made again."""

from pathlib import Path

import platformdirs


def data_folder(asked: str | None) -> Path:
    """Where prepared data, locks, packings and extents are kept between runs: `data.cache.folder`,
    or the platform's cache folder of the user."""
    if asked is not None:
        return Path(asked).expanduser().absolute()
    return platformdirs.user_cache_path("keepstep") / "data"
