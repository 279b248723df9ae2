"""Energy is what counters say between two looks of one job; nothing is estimated."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from keepstep.trainer.telemetry import energy
from keepstep.trainer.telemetry.energy import (
    Nvml,
    Rapl,
    Reading,
    energy_of,
    intervals,
    meters_of_node,
    read_all,
)


def zone(folder: Path, number: int, joules: float, most: float = 1000.0) -> Path:
    made = folder / f"intel-rapl:{number}"
    made.mkdir(parents=True, exist_ok=True)
    (made / "name").write_text(f"package-{number}\n")
    (made / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (made / "max_energy_range_uj").write_text(f"{int(most * 1e6)}\n")
    return made


class Library:
    """Answers as NVML does, for one GPU."""

    def __init__(self, code: int = 0) -> None:
        self.code = code

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        return 0 if uuid == b"GPU-1" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, found: Any) -> int:
        ctypes.cast(found, ctypes.POINTER(ctypes.c_ulonglong))[0] = 5_500
        return self.code


def test_a_package_counts_on_over_the_end_of_its_counter(tmp_path: Path) -> None:
    meter = Rapl(zone(tmp_path, 0, 990.0))
    assert (meter.name, meter.joules()) == ("cpu package-0", 990.0)
    zone(tmp_path, 0, 15.0)
    assert meter.joules() == 1015.0


def test_a_gpu_counts_in_millijoules_and_one_that_fails_is_left_out() -> None:
    assert read_all([Nvml(Library(), "GPU-1")]) == {"gpu GPU-1": 5.5}
    with pytest.raises(OSError, match="GPU-2: NVML answered 6"):
        Nvml(Library(), "GPU-2")
    meter = Nvml(Library(), "GPU-1")
    meter._library = Library(code=999)
    assert read_all([meter]) == {}


def test_a_node_has_the_meters_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    assert meters_of_node(torch.device("cpu"), processes=2) == []
    for number in (0, 1):
        zone(tmp_path, number, 1.0)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    found = meters_of_node(torch.device("cpu"), processes=2)
    assert [meter.name for meter in found] == ["cpu package-0"]


def reading(moment: float, joules: float) -> Reading:
    return Reading(moment=moment, source="cpu package-0 of node 0", joules=joules)


def test_what_others_used_between_two_jobs_does_not_count() -> None:
    said = [reading(10.0, 100.0), reading(11.0, 160.0), reading(50.0, 900.0), reading(51.0, 950.0)]
    found = intervals(said, [9.0, 49.0])
    assert [joules for *_, joules in found] == [60.0, 50.0]


def test_a_counter_that_began_anew_is_no_negative_energy() -> None:
    assert intervals([reading(1.0, 100.0), reading(2.0, 3.0)], []) == []


def test_all_nodes_are_summed_and_given_in_grams() -> None:
    metrics = [
        {"step": 1, "time": 10.0, "energy_joules": {"cpu package-0": 0.0, "gpu GPU-1": 0.0}},
        {"step": 2, "time": 12.0},
        {"step": 3, "time": 14.0, "energy_joules": {"cpu package-0": 3.6e5, "gpu GPU-1": 1.8e6}},
    ]
    events = [
        {"kind": "start", "generation": 0, "time": 9.0},
        {"kind": "energy", "rank": 8, "time": 10.0, "joules": {"gpu GPU-1": 100.0}},
        {"kind": "energy", "rank": 8, "time": 14.0, "joules": {"gpu GPU-1": 100.0 + 1.44e6}},
    ]
    found = energy_of(metrics, events, grams_per_kwh=400.0)
    assert found is not None
    assert found["joules"] == {"cpu": 3.6e5, "gpu": 3.24e6}
    assert found["kwh"] == pytest.approx(1.0)
    assert found["grams_co2"] == pytest.approx(400.0)
    unknown = energy_of(metrics, events, grams_per_kwh=None)
    assert unknown is not None
    assert unknown["grams_co2"] is None
    assert energy_of(metrics[1:2], events[:1], grams_per_kwh=400.0) is None
