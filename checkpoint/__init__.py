"""Training state <-> bytes that are whole, checked and found again.
state -> layout (boxes) -> shardfile (safetensors) -> commit (manifest last) -> a store
a store -> listing (newest first) -> reader (proves, reshards) -> state"""

from .commit import Cargo, commit
from .config import CheckpointConfig, PlaceConfig, SealConfig
from .digest import combine_digests, tensor_digest
from .errors import (
    CheckpointError,
    CorruptError,
    DamagedPartError,
    DiskFullError,
    MismatchError,
    SealError,
    VersionError,
)
from .exchange import Exchange, SoloExchange, gather_distinct
from .listing import Found, committed, read_manifest
from .manager import Checkpoints, Restored, Saved
from .manifest import Manifest
from .policy import Cadence
from .prune import tidy
from .retention import Keep
from .seal import Seal
from .stores import LocalStore, Store, open_place
from .verify import Damage, verify

__all__ = [
    "Cadence", "Cargo", "CheckpointConfig", "CheckpointError", "Checkpoints", "CorruptError",
    "Damage", "DamagedPartError", "DiskFullError", "Exchange", "Found", "Keep", "LocalStore",
    "Manifest", "MismatchError", "PlaceConfig", "Restored", "Saved", "Seal", "SealConfig",
    "SealError", "SoloExchange", "Store", "VersionError", "combine_digests", "commit", "committed",
    "gather_distinct", "open_place", "read_manifest", "tensor_digest", "tidy", "verify",
]  # fmt: skip
