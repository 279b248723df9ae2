"""Degrees become a device mesh, and a module becomes a sharded one, in every dtype policy."""

from .assemble import assemble  # noqa: I001 - one line a file
from .balance import Balance
from .check import check_settings
from .collectives import Exchange, begin_sum, max_, sum_
from .config import ContextAttention, DeviceKind, MemoryConfig, ParallelConfig, PrecisionConfig
from .config import PrecisionName, Recompute
from .exact import Grid
from .flight import pending
from .gradients import clip_, clip_factor, counts, gradient_groups, squares
from .initialise import initialise
from .layers import Attend, Experts, Head, Router, permute
from .links import Links
from .mesh import Degrees, Role, Topology, copies_of
from .names import canonical_name
from .pace import own_seconds
from .pipeline import Call, Pipeline, Stages, fewest_microbatches, lent_parameters
from .plan import Cut, Initial, Normal, Ones, Plan, Style, TruncatedNormal, Zeros
from .positions import global_positions, held_indices, is_sharded, local_part
from .precision import LossScale, Policy
from .process import World, client_store, join, keep_freed_memory, leave, open_store
from .process import pick_device, read_world, seed_draws, set_variable
from .shard import reshard, set_last_microbatch
from .simulate import simulated_world
from .tensor import sequence_multiple

__all__ = [
    "Attend", "Balance", "Call", "ContextAttention", "Cut", "Degrees", "DeviceKind", "Exchange",
    "Experts", "Grid", "Head", "Initial", "Links", "LossScale", "MemoryConfig", "Normal", "Ones",
    "ParallelConfig", "Pipeline", "Plan", "Policy", "PrecisionConfig", "PrecisionName", "Recompute",
    "Role", "Router", "Stages", "Style", "Topology", "TruncatedNormal", "World", "Zeros",
    "assemble", "begin_sum", "canonical_name", "check_settings", "client_store", "clip_",
    "clip_factor", "copies_of", "counts", "fewest_microbatches", "global_positions",
    "gradient_groups", "held_indices", "initialise", "is_sharded", "join", "keep_freed_memory",
    "leave", "lent_parameters", "local_part", "max_", "open_store", "own_seconds", "pending",
    "permute", "pick_device", "read_world", "reshard", "seed_draws", "sequence_multiple",
    "set_last_microbatch", "set_variable", "simulated_world", "squares", "sum_",
]  # fmt: skip
