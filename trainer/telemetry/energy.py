"""Energy that a node's devices count themselves: GPUs by NVML, CPU packages by RAPL. What has no
counter here, or none that may be read, is not measured; nothing is estimated.

A counter counts the whole device, whoever uses it.
"""

import contextlib
import ctypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch

JOULES_PER_KWH = 3.6e6
_POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"


class Meter(Protocol):
    """One counter of one device; `name` says which, the same in every process of the node."""

    name: str

    def joules(self) -> float:
        """What it has counted by now; OSError where it does not answer."""
        ...


@final
class Rapl:
    """A CPU package's counter, by the kernel's powercap files; it begins anew at `_range`."""

    def __init__(self, zone: Path) -> None:
        self.name = f"cpu {(zone / 'name').read_text().strip()}"
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last = self._turns = 0
        self.joules()

    def joules(self) -> float:
        found = int(self._file.read_text())
        self._turns += found < self._last
        self._last = found
        return (found + self._turns * self._range) / 1e6


@final
class Nvml:
    """A GPU's counter since its driver was loaded; Volta and later have one."""

    def __init__(self, library: Any, uuid: str) -> None:
        self.name = f"gpu {uuid}"
        self._library = library
        self._handle = ctypes.c_void_p()
        _check(library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._handle)), uuid)
        self.joules()

    def joules(self) -> float:
        found = ctypes.c_ulonglong()
        code = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(found))
        _check(code, self.name)
        return found.value / 1e3


def meters_of_node(device: torch.device, *, processes: int) -> list[Meter]:
    """The counters of this node that can be read, none where there are none.

    Args:
        processes: of the run on this node, each with one of its visible GPUs.
    """
    found: list[Meter] = []
    for zone in sorted(_POWERCAP.glob("intel-rapl:[0-9]")):
        with contextlib.suppress(OSError, ValueError):  # mostly readable for root only
            found.append(Rapl(zone))
    if device.type == "cuda":
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(_NVML)
            _check(library.nvmlInit_v2(), _NVML)
            count = min(processes, torch.cuda.device_count())
            uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(count)]
            found += [Nvml(library, uuid) for uuid in uuids]
    return found


def read_all(meters: Iterable[Meter]) -> dict[str, float]:
    """Joules by counter, of those that answer."""
    found = {}
    for meter in meters:
        with contextlib.suppress(OSError):
            found[meter.name] = round(meter.joules(), 3)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one counter said at a moment (unix seconds)."""

    moment: float
    source: str
    joules: float


def intervals(
    readings: Iterable[Reading], begins: Sequence[float]
) -> list[tuple[float, float, str, float]]:
    """(from, to, source, joules) between readings that follow each other in one job: between two
    jobs a device worked for others, and a counter that went back began anew."""
    last: dict[str, Reading] = {}
    found = []
    for now in sorted(readings, key=lambda one: one.moment):
        before = last.get(now.source)
        last[now.source] = now
        if before is None or now.joules < before.joules:
            continue
        if not any(before.moment < begin <= now.moment for begin in begins):
            found.append((before.moment, now.moment, now.source, now.joules - before.joules))
    return found


def readings_of(
    metrics: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]
) -> list[Reading]:
    """What the lines of metrics.jsonl (rank 0's node) and events.jsonl (other nodes) say."""
    said = [
        (line["time"], "node 0", line["energy_joules"])
        for line in metrics
        if "energy_joules" in line
    ]
    said += [
        (one["time"], f"rank {one['rank']}", one["joules"])
        for one in events
        if one["kind"] == "energy"
    ]
    return [
        Reading(moment=float(moment), source=f"{name} of {node}", joules=float(value))
        for moment, node, joules in said
        for name, value in joules.items()
    ]


def job_begins(events: Iterable[Mapping[str, Any]]) -> list[float]:
    """Unix seconds at which jobs of the run first trained."""
    first = (one for one in events if one["kind"] == "start" and not one["generation"])
    return [float(one["time"]) for one in first]


def energy_of(
    metrics: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    *,
    grams_per_kwh: float | None,
) -> dict[str, Any] | None:
    """Joules by kind of device, kWh in all, and grams of CO2 where the grid's intensity is known;
    None where nothing was measured."""
    spans = intervals(readings_of(metrics, events), job_begins(events))
    if not spans:
        return None
    joules: dict[str, float] = {}
    for *_, source, amount in spans:
        kind = source.partition(" ")[0]
        joules[kind] = joules.get(kind, 0.0) + amount
    kwh = sum(joules.values()) / JOULES_PER_KWH
    grams = None if grams_per_kwh is None else kwh * grams_per_kwh
    return {"joules": joules, "kwh": kwh, "grams_co2": grams}


def _check(code: int, what: str) -> None:
    if code:
        raise OSError(f"{what}: NVML answered {code}")
