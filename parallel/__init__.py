"""Degrees become a device mesh, and a module becomes a sharded one, in every dtype policy."""

from .assemble import assemble
from .collectives import Exchange, begin_sum, max_, sum_
from .config import DeviceKind, ParallelConfig, PrecisionConfig, PrecisionName
from .gradients import clip_, gradient_norm
from .initialise import canonical_name, initialise
from .mesh import Degrees, Role, Topology
from .plan import Initial, Normal, Ones, Plan, TruncatedNormal, Zeros
from .precision import Policy
from .process import (
    World,
    client_store,
    join,
    keep_freed_memory,
    leave,
    open_store,
    pick_device,
    read_world,
    set_variable,
)
from .shard import apply_shard, reshard, set_last_microbatch

__all__ = [
    "Degrees", "DeviceKind", "Exchange", "Initial", "Normal", "Ones", "ParallelConfig", "Plan",
    "Policy", "PrecisionConfig", "PrecisionName", "Role", "Topology", "TruncatedNormal", "World",
    "Zeros", "apply_shard", "assemble", "begin_sum", "canonical_name", "client_store", "clip_",
    "gradient_norm", "initialise", "join", "keep_freed_memory", "leave", "max_", "open_store",
    "pick_device", "read_world", "reshard", "set_last_microbatch", "set_variable", "sum_",
]  # fmt: skip
