"""What a user sets about the cache of extents. Checks its own fields only: no folder is touched."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class CacheConfig:
    """Where extents are kept on this node and how much room they may take."""

    folder: str | None = None
    """Folder of the disk tier: a new or empty one, or one that a cache has made. Each user has a
    sub-folder of its own in it (mode 0700). None: the user's cache folder."""

    disk_bytes: int = 64 * 2**30
    """Bytes the disk tier may take, of all processes together; never exceeded. 0: no disk tier."""

    ram_bytes: int = 0
    """Bytes the RAM tier may take, of all processes together; never exceeded. They are the
    machine's (or container's) memory and outlive the job. 0: no RAM tier."""

    ram_folder: str = "/dev/shm"
    """Where the RAM tier makes its folder: a memory file system."""

    free_bytes: int = 4 * 2**30
    """Bytes that stay free on the disk tier's file system, whoever fills it: where fewer would be
    left, the cache evicts, and refuses what still has no room."""

    ram_free_bytes: int = 2**28
    """The same for the RAM tier's file system."""

    idle_seconds: float = 3600.0
    """After so long without use an entry that no running job of ours knows may be evicted."""

    rescan_seconds: float = 300.0
    """How often a process counts the folder anew, which finds what others deleted by hand."""

    open_maps: int = 256
    """Extents that stay mapped in each process; a hit on one costs about a microsecond. Each
    holds a file descriptor."""

    group: bool = False
    """Share one cache with all members of the folder's group (files 0660, folders 2770), who are
    then trusted with its content. False: other users can neither read nor write it."""

    fsync: bool = False
    """Wait for the disk at each put. Not needed for correct reads: an entry torn by a power cut is
    found by its digest and fetched again."""

    def __post_init__(self) -> None:
        for name, least in (
            ("disk_bytes", 0),
            ("ram_bytes", 0),
            ("free_bytes", 0),
            ("ram_free_bytes", 0),
            ("idle_seconds", 0),
            ("rescan_seconds", 1),
            ("open_maps", 1),
        ):
            found = getattr(self, name)
            if not found >= least:
                raise ValueError(
                    f"data.cache.{name}: found {found}, needed {least} or more; "
                    f"set data.cache.{name}={least} or leave it out"
                )
