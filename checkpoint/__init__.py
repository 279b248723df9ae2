"""Training state <-> bytes that are whole, checked and found again.
state -> layout (boxes) -> shardfile (safetensors) -> commit (manifest last) -> a store
a store -> listing (newest first) -> reader (proves, reshards) -> state"""

from .config import CheckpointConfig
from .digest import combine_digests, tensor_digest
from .errors import CheckpointError, CorruptError, DiskFullError, MismatchError, VersionError
from .exchange import Exchange, SoloExchange, gather_distinct
from .listing import Found, committed, read_manifest
from .manager import Checkpoints, Restored, Saved
from .manifest import Manifest
from .retention import is_save_due
from .stores import LocalStore, Store
from .verify import Damage, verify

__all__ = [
    "CheckpointConfig",
    "CheckpointError",
    "Checkpoints",
    "CorruptError",
    "Damage",
    "DiskFullError",
    "Exchange",
    "Found",
    "LocalStore",
    "Manifest",
    "MismatchError",
    "Restored",
    "Saved",
    "SoloExchange",
    "Store",
    "VersionError",
    "combine_digests",
    "committed",
    "gather_distinct",
    "is_save_due",
    "read_manifest",
    "tensor_digest",
    "verify",
]
