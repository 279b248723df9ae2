"""GPUs as plain facts, and what is wrong with them. Knows no library that asks them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .finding import GIB, Finding, Level, judged

_AREA = "GPUs"
# Bits of NVML's reasons for a clock below its highest; an idle GPU and an asked-for clock are fine.
_HEAT = {
    0x8: "hardware slowdown",
    0x20: "too hot (software)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}
_POWER_CAP = 0x4
_BUSY_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU; None where the driver does not say."""

    index: int
    name: str
    memory_total: int
    memory_used: int
    ecc: bool | None = None
    """Whether errors in memory are corrected at all."""
    errors: int | None = None
    """Uncorrected ones since the driver was loaded."""
    awaits_repair: bool | None = None
    """Rows of memory that a reset would replace."""
    clock: int | None = None
    """Of the multiprocessors now, MHz."""
    clock_most: int | None = None
    slowed: int = 0
    """NVML's bits for what keeps the clock below its highest."""
    temperature: int | None = None
    """Degrees Celsius."""
    pcie_width: int | None = None
    pcie_width_most: int | None = None
    links: int | None = None
    """NVLinks that are up; None where it has none."""
    links_most: int | None = None


def judge_gpus(
    gpus: Sequence[Gpu], *, ranks: int, asks_cuda: bool, bytes_a_rank: int
) -> list[Finding]:
    """What is wrong with the GPUs of a node.

    Args:
        gpus: every one of them.
        ranks: of this node.
        asks_cuda: `parallel.device=cuda`.
        bytes_a_rank: that a rank's model, gradients and optimizer take.
    """
    if not gpus:
        return [
            judged(
                *(_AREA, "GPUs", "no GPU; ranks run on the CPU, by gloo"),
                worst=Level.problem if asks_cuda else None,
                needed=f"{ranks}, one a rank" if asks_cuda else "",
                remedy="start on a node with GPUs, or set parallel.device=cpu",
            )
        ]
    looks = (_errors, _repair, _slowed, _capped, _width, _links, _busy)
    return [
        _count(gpus, ranks),
        _alike(gpus),
        _room(gpus, bytes_a_rank),
        *(look(gpus) for look in looks),
    ]


def _named(
    gpus: Sequence[Gpu], is_wrong: Callable[[Gpu], object], words: Callable[[Gpu], str]
) -> str:
    """Those that are wrong by their numbers, with what is; empty where none is."""
    return "; ".join(f"GPU {gpu.index}: {words(gpu)}" for gpu in gpus if is_wrong(gpu))


def _count(gpus: Sequence[Gpu], ranks: int) -> Finding:
    return judged(
        *(_AREA, "GPUs", f"{len(gpus)} x {gpus[0].name}"),
        worst=Level.problem if len(gpus) < ranks else None,
        needed=f"{ranks}, one a rank",
        remedy=f"--nproc-per-node={len(gpus)}",
    )


def _alike(gpus: Sequence[Gpu]) -> Finding:
    kinds = sorted({(gpu.name, round(gpu.memory_total / GIB)) for gpu in gpus})
    return judged(
        *(_AREA, "kinds", ", ".join(f"{name} ({size} GiB)" for name, size in kinds)),
        worst=Level.warning if len(kinds) > 1 else None,
        needed="one kind: a step is as long as on the slowest",
        remedy="CUDA_VISIBLE_DEVICES with those of one kind",
    )


def _room(gpus: Sequence[Gpu], bytes_a_rank: int) -> Finding:
    least = min(gpu.memory_total for gpu in gpus)
    return judged(
        *(_AREA, "memory", f"{least / GIB:.1f} GiB on the smallest"),
        worst=Level.problem if bytes_a_rank > least else None,
        needed=f"{bytes_a_rank / GIB:.2f} GiB a rank, without activations",
        remedy="shard over more ranks; keepstep plan shows what each layout takes",
    )


def _errors(gpus: Sequence[Gpu]) -> Finding:
    found = _named(gpus, lambda gpu: gpu.errors, lambda gpu: f"{gpu.errors} uncorrected errors")
    off = _named(gpus, lambda gpu: gpu.ecc is False, lambda gpu: "ECC is off")
    return judged(
        *(_AREA, "ECC", found or off or "on, or not there; no uncorrected error"),
        worst=Level.problem if found else Level.warning if off else None,
        needed="ECC on, and no uncorrected error",
        remedy="take the node out and have the GPU reset or replaced"
        if found
        else "nvidia-smi -e 1 and a reset; until then guard.compare_every and guard.replay_every",
    )


def _repair(gpus: Sequence[Gpu]) -> Finding:
    found = _named(gpus, lambda gpu: gpu.awaits_repair, lambda gpu: "rows wait to be replaced")
    return judged(
        *(_AREA, "memory rows", found or "none waits to be replaced"),
        worst=Level.problem if found else None,
        needed="none",
        remedy="reset the GPU (nvidia-smi -r), or take the node out",
    )


def _slowed(gpus: Sequence[Gpu]) -> Finding:
    def words(gpu: Gpu) -> str:
        reasons = [word for bit, word in _HEAT.items() if gpu.slowed & bit]
        heat = f" at {gpu.temperature} C" if gpu.temperature is not None else ""
        return f"{', '.join(reasons)}{heat}, {gpu.clock} of {gpu.clock_most} MHz"

    found = _named(gpus, lambda gpu: gpu.slowed & sum(_HEAT), words)
    now = min((gpu.clock for gpu in gpus if gpu.clock is not None), default=None)
    return judged(
        *(_AREA, "clocks", found or f"nothing slows them down ({now or '?'} MHz now)"),
        worst=Level.problem if found else None,
        needed="no slowdown by heat or a power brake",
        remedy="look at cooling and power supply, or take the node out",
    )


def _capped(gpus: Sequence[Gpu]) -> Finding:
    found = _named(gpus, lambda gpu: gpu.slowed & _POWER_CAP, lambda gpu: "held by its power cap")
    return judged(
        *(_AREA, "power", found or "no cap is reached"),
        worst=Level.warning if found else None,
        needed="none at rest",
        remedy="nvidia-smi -q -d POWER shows the cap; nvidia-smi -pl WATTS raises it",
    )


def _width(gpus: Sequence[Gpu]) -> Finding:
    # Only the width: an idle link lowers its generation to save power, and raises it by itself.
    def is_narrow(gpu: Gpu) -> bool:
        return bool(gpu.pcie_width and gpu.pcie_width_most and gpu.pcie_width < gpu.pcie_width_most)

    found = _named(gpus, is_narrow, lambda gpu: f"x{gpu.pcie_width} of x{gpu.pcie_width_most}")
    return judged(
        *(_AREA, "PCIe", found or "as wide as the GPUs are"),
        worst=Level.warning if found else None,
        needed="all lanes",
        remedy="reseat the GPU or its riser; look at the slot's and the BIOS's lanes",
    )


def _links(gpus: Sequence[Gpu]) -> Finding:
    most = max((gpu.links_most or 0 for gpu in gpus), default=0)
    found = _named(
        gpus,
        lambda gpu: gpu.links is not None and gpu.links < (gpu.links_most or most),
        lambda gpu: f"{gpu.links} of {gpu.links_most or most} NVLinks",
    )
    return judged(
        *(_AREA, "NVLink", found or (f"all {most} up on each" if most else "none: PCIe only")),
        worst=Level.problem if found else None,
        needed="all of them",
        remedy="nvidia-smi nvlink -s; the fabric manager must run; else take the node out",
    )


def _busy(gpus: Sequence[Gpu]) -> Finding:
    found = _named(
        gpus,
        lambda gpu: gpu.memory_used > _BUSY_SHARE * gpu.memory_total,
        lambda gpu: f"{gpu.memory_used / GIB:.1f} GiB taken",
    )
    return judged(
        *(_AREA, "others", found or "nobody else has memory of them"),
        worst=Level.warning if found else None,
        needed="GPUs of one's own",
        remedy="nvidia-smi shows whose processes they are; end them",
    )
