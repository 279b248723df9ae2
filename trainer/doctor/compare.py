"""What ranks measured together -> findings: a rank, a clock or a link that falls behind the rest is
named. Pure: measurements in, findings out."""

from collections.abc import Sequence
from statistics import median

from .finding import MIB, Finding, Level, judged
from .ranks import Collective, Measured

_AREA = "ranks"
_SKEW_WARNING, _SKEW_PROBLEM = 0.1, 5.0
_SLOW_RANK, _SLOW_PAIR = 0.8, 0.5
_MOST_NAMED = 4


def judge_ranks(found: Measured) -> list[Finding]:
    """Clocks, matrix products, collectives and links of all ranks."""
    looks = [_clocks(found.skew_seconds), _speeds(found.flops)]
    if found.collectives:
        looks += [_bandwidths(found.collectives)]
    if found.pairs:
        looks += [_links(found)]
    return looks


def _clocks(skew: Sequence[float]) -> Finding:
    rank = max(range(len(skew)), key=lambda one: abs(skew[one]))
    worst = abs(skew[rank])
    level = Level.problem if worst > _SKEW_PROBLEM else Level.warning
    words = f"rank {rank} is {skew[rank] * 1e3:+,.1f} ms from rank 0" if rank else "one clock"
    return judged(
        *(_AREA, "clocks", words),
        worst=level if worst > _SKEW_WARNING else None,
        needed=f"{_SKEW_WARNING * 1e3:.0f} ms at most, for events and signatures in a bucket",
        remedy="start chrony or systemd-timesyncd on that node",
    )


def _speeds(flops: Sequence[float]) -> Finding:
    middle = median(flops)
    slow = [rank for rank, speed in enumerate(flops) if speed < _SLOW_RANK * middle]
    named = ", ".join(f"rank {rank}: {_flops(flops[rank])}" for rank in slow[:_MOST_NAMED])
    words = f"{_flops(min(flops))} to {_flops(max(flops))} a rank, all at once"
    return judged(
        *(_AREA, "matrix products", f"{words}; slow: {named}" if slow else words),
        worst=Level.warning if slow else None,
        needed=f"{_SLOW_RANK:.0%} of the median ({_flops(middle)}): the slowest sets the pace",
        remedy="look at clocks, heat and other processes of that rank's node; leave it out",
    )


def _flops(speed: float) -> str:
    return f"{speed / 1e12:,.1f} TFLOP/s" if speed >= 1e12 else f"{speed / 1e9:,.1f} GFLOP/s"


def _bandwidths(found: Sequence[Collective]) -> Finding:
    shown = [
        f"{one.name} of {one.size / MIB:g} MiB: {one.bus_bandwidth / 1e9:,.2f} GB/s"
        for one in found
    ]
    return judged(_AREA, "bus bandwidth", "; ".join(shown), worst=None)


def _links(found: Measured) -> Finding:
    middle = median(found.pairs.values())
    slow = sorted(
        (pair for pair, speed in found.pairs.items() if speed < _SLOW_PAIR * middle),
        key=lambda pair: found.pairs[pair],
    )
    named = ", ".join(
        f"{a}-{b}: {found.pairs[a, b] / 1e9:,.2f} GB/s" for a, b in slow[:_MOST_NAMED]
    )
    least, most = min(found.pairs.values()), max(found.pairs.values())
    words = f"{len(found.pairs)} pairs, {least / 1e9:,.2f} to {most / 1e9:,.2f} GB/s each way"
    words += "" if found.all_pairs else ", there was no time for the others"
    return judged(
        *(_AREA, "links", f"{words}; slow: {named}" if slow else words),
        worst=Level.warning if slow else None,
        needed=f"{_SLOW_PAIR:.0%} of the median ({middle / 1e9:,.2f} GB/s) between each two",
        remedy="look at the cable, switch or PCIe slot that these share; NCCL_DEBUG=INFO shows "
        "the way that NCCL takes",
    )
