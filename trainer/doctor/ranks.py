"""What the ranks do together, measured: clocks, matrix products, collectives, and each pair's link.

All of it is collective: every rank calls it in the same order, in one process group.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

_PINGS = 15
_WARM, _REPEATS = 2, 5
# Of a message that shows bandwidth and not latency; more on a GPU, where links are faster.
_PAIR_BYTES = {"cpu": 4 * 2**20, "cuda": 64 * 2**20}
_SIZES = {
    "cpu": (64 * 2**10, 2**20, 16 * 2**20),
    "cuda": (2**20, 32 * 2**20, 512 * 2**20),
}
_MATRIX = {"cpu": (512, torch.float32), "cuda": (8192, torch.bfloat16)}
_MOST_ROUNDS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """One size of one collective; bandwidth as nccl-tests count it, in bytes a second."""

    name: str
    size: int
    seconds: float
    bus_bandwidth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What all ranks measured; the same on each."""

    skew_seconds: tuple[float, ...]
    """By rank: its clock less rank 0's."""
    flops: tuple[float, ...]
    """By rank: of a matrix product, a second, all ranks at work at once."""
    collectives: tuple[Collective, ...] = ()
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)
    """By pair of ranks: bytes a second in each direction, both at once."""
    all_pairs: bool = True
    """Whether there was time for each pair."""


def measure_ranks(device: torch.device, *, seconds: float) -> Measured:
    """Collective: measures for `seconds` at most, give or take one measurement. Blocks."""
    deadline = time.monotonic() + seconds
    skew = _gathered(clock_skew(), device)
    flops = _gathered(matmul_flops(device), device)
    if dist.get_world_size() == 1:
        return Measured(skew_seconds=skew, flops=flops)
    collectives = _collectives(device, deadline)
    pairs, is_all = _pairs(device, deadline)
    return Measured(
        skew_seconds=skew, flops=flops, collectives=collectives, pairs=pairs, all_pairs=is_all
    )


def clock_skew() -> float:
    """Collective: seconds by which this rank's clock is ahead of rank 0's, by the quickest of some
    questions and answers; wrong by half of what that one took at most."""
    rank, size = dist.get_rank(), dist.get_world_size()
    stamp = torch.zeros(1, dtype=torch.int64)
    if rank == 0:
        for peer in range(1, size):
            for _ in range(_PINGS):
                dist.recv(stamp, peer)
                stamp.fill_(time.time_ns())
                dist.send(stamp, peer)
        return 0.0
    return min(_asked(stamp) for _ in range(_PINGS))[1]


def _asked(stamp: Tensor) -> tuple[float, float]:
    """Seconds that an answer took, and by how many this clock is ahead."""
    before = time.time_ns()
    dist.send(stamp, 0)
    dist.recv(stamp, 0)
    after = time.time_ns()
    return (after - before) / 1e9, ((before + after) / 2 - int(stamp.item())) / 1e9


def matmul_flops(device: torch.device) -> float:
    """Collective, so that all ranks compute at once: operations a second of a square product."""
    size, dtype = _MATRIX[device.type]
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    for _ in range(_WARM):
        left @ right
    took = []
    _meet(device)
    for _ in range(_REPEATS):
        begun = _now(device)
        left @ right
        took.append(_now(device) - begun)
    return 2.0 * size**3 / sorted(took)[_REPEATS // 2]


def _now(device: torch.device) -> float:
    """The clock once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _meet(device: torch.device) -> None:
    dist.all_reduce(torch.zeros(1, device=device))
    _now(device)


def _gathered(value: float, device: torch.device) -> tuple[float, ...]:
    """Collective: every rank's value."""
    mine = torch.tensor([value], dtype=torch.float64, device=device)
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    return tuple(float(one.item()) for one in found)


def _is_late(deadline: float, device: torch.device) -> bool:
    """Collective: whether any rank's time is up, so that all stop at one place."""
    said = torch.tensor([float(time.monotonic() > deadline)], device=device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said.item())


def _collectives(device: torch.device, deadline: float) -> tuple[Collective, ...]:
    found: list[Collective] = []
    for size in _SIZES[device.type]:
        for name in ("all_reduce", "all_gather"):
            if _is_late(deadline, device):
                return tuple(found)
            seconds = max(_gathered(_seconds_of(name, size, device), device))
            found.append(
                Collective(
                    name=name,
                    size=size,
                    seconds=seconds,
                    bus_bandwidth=bus_bandwidth(name, size, seconds, dist.get_world_size()),
                )
            )
    return tuple(found)


def bus_bandwidth(name: str, size: int, seconds: float, ranks: int) -> float:
    """Bytes a second through each link, by nccl-tests' convention: comparable to the hardware's,
    whatever the number of ranks. `size` is of the whole: of all_gather what each rank ends with."""
    share = (ranks - 1) / ranks
    return size / seconds * {"all_reduce": 2 * share, "all_gather": share}[name]


def _seconds_of(name: str, size: int, device: torch.device) -> float:
    """Of one call, the median of some, on this rank."""
    ranks = dist.get_world_size()
    part = torch.zeros(max(1, size // 4 // ranks), device=device)
    whole = torch.zeros(part.numel() * ranks, device=device)
    parts = list(whole.chunk(ranks))
    took = []
    for _ in range(_WARM + _REPEATS):
        _meet(device)
        begun = _now(device)
        if name == "all_reduce":
            dist.all_reduce(whole)
        else:
            dist.all_gather(parts, part)
        took.append(_now(device) - begun)
    return sorted(took[_WARM:])[_REPEATS // 2]


def rounds(ranks: int) -> list[list[tuple[int, int]]]:
    """Every pair of ranks once, in rounds in which no rank is in two pairs (a round robin)."""
    places: list[int | None] = [*range(ranks), *([None] if ranks % 2 else [])]
    found = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        facing = zip(places[:half], reversed(places[half:]), strict=True)
        found.append([(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None])
        places = [places[0], places[-1], *places[1:-1]]
    return found


def _pairs(device: torch.device, deadline: float) -> tuple[dict[tuple[int, int], float], bool]:
    """What each pair of ranks reaches, and whether there was time for all."""
    rank = dist.get_rank()
    found: dict[tuple[int, int], float] = {}
    every = rounds(dist.get_world_size())
    for index, pairs in enumerate(every):
        if index >= _MOST_ROUNDS or _is_late(deadline, device):
            return found, False
        peers = {a: b for a, b in pairs} | {b: a for a, b in pairs}
        peer = peers.get(rank)
        mine = math.nan if peer is None else _pair_bandwidth(peer, device)
        speeds: Sequence[float] = _gathered(mine, device)
        found |= {(a, b): min(speeds[a], speeds[b]) for a, b in pairs}
    return found, True


def _pair_bandwidth(peer: int, device: torch.device) -> float:
    size = _PAIR_BYTES[device.type]
    out = torch.zeros(size // 4, device=device)
    back = torch.empty_like(out)
    took = []
    for _ in range(_WARM + _REPEATS):
        begun = _now(device)
        ways = [dist.P2POp(dist.isend, out, peer), dist.P2POp(dist.irecv, back, peer)]
        for work in dist.batch_isend_irecv(ways):
            work.wait()
        took.append(_now(device) - begun)
    return size / sorted(took[_WARM:])[_REPEATS // 2]
