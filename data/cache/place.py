"""Where a cache's tiers lie: folders of their own for each user, or one for a group."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs
import xxhash

from .claim import claim, make, require_owner
from .config import CacheConfig
from .folder import Folder
from .foresight import Foresight
from .name import ExtentName
from .tier import Tier, TierRules

_log = logging.getLogger(__name__)
Gone = Callable[[ExtentName], None]


def open_tiers(config: CacheConfig, foresight: Foresight, gone: Gone) -> dict[str, Tier]:
    """Claims and opens the tiers, the fastest first: "ram", "disk". One that cannot be made is
    left out with a warning.

    Raises:
        DataError: a folder holds other things than a cache, or is not safe to use.
    """
    top = Path(config.folder) if config.folder else platformdirs.user_cache_path("keepstep")
    top = (top if config.folder else top / "extents").expanduser().absolute()
    tiers: dict[str, Tier] = {}
    if config.ram_bytes:
        rules = _rules(config, config.ram_bytes, config.ram_free_bytes)
        root = Path(config.ram_folder) / _ram_name(top, group=config.group)
        opened = _open(root, config.group, rules, foresight, gone)
        tiers |= {"ram": opened} if opened else {}
    if config.disk_bytes:
        rules = _rules(config, config.disk_bytes, config.free_bytes)
        root = top / ("group" if config.group else f"user-{os.geteuid()}")
        opened = _open(root, config.group, rules, foresight, gone, top)
        tiers |= {"disk": opened} if opened else {}
    return tiers


def _open(
    root: Path,
    group: bool,
    rules: TierRules,
    foresight: Foresight,
    gone: Gone,
    top: Path | None = None,
) -> Tier | None:
    try:
        if top is not None:
            top.mkdir(parents=True, exist_ok=True)
            claim(top)
        make(root, 0o2770 if group else 0o700)
        require_owner(root, group=group)
        claim(root)
        return Tier(root, Folder.open(root, group=group), rules, foresight, gone)
    except OSError as error:
        _log.warning(
            "The cache goes without %s, which could not be made (%s); make it, or set "
            "data.cache.folder to another",
            root,
            error.strerror or error,
        )
        return None


def _ram_name(top: Path, *, group: bool) -> str:
    """A name that all jobs with the same disk folder share, and no other user."""
    owner = f"g{os.getegid()}" if group else f"u{os.geteuid()}"
    return f"keepstep-{owner}-{xxhash.xxh3_64_hexdigest(os.fsencode(top))}"


def _rules(config: CacheConfig, budget_bytes: int, free_bytes: int) -> TierRules:
    return TierRules(
        budget_bytes=budget_bytes,
        free_bytes=free_bytes,
        idle_seconds=config.idle_seconds,
        rescan_seconds=config.rescan_seconds,
        fsync=config.fsync,
    )
