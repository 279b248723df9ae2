"""The table of the bench of checkpoints, and what is asked of each ratio."""

import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Seconds = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of the medians' names `one` and `other`, turn by turn."""

    one: str
    other: str
    asked: str = "-"


RATIOS = {
    "snapshot each step / step, a core idle": Ratio(
        "steps with snapshots, a core idle", "steps, a core idle", "<= 1.03"
    ),
    "snapshot each step / step": Ratio("steps with snapshots", "steps"),
    "blocked / dcp.async_save thread": Ratio(
        "keepstep blocked", "dcp.async_save thread blocked", "<= 0.1"
    ),
    "blocked / dcp.async_save process": Ratio(
        "keepstep blocked", "dcp.async_save process blocked", "<= 0.1"
    ),
    "blocked / torch_checkpointing": Ratio("keepstep blocked", "torch_checkpointing blocked"),
    "raw write / save": Ratio("raw write", "keepstep save", ">= 0.9"),
    "raw read / restore, of the disk": Ratio("raw read, disk", "keepstep restore, disk", ">= 0.9"),
    "raw read / restore, of the page cache": Ratio("raw read", "keepstep restore", ">= 0.9"),
    "memory restore / memcpy": Ratio("keepstep memory restore", "memcpy", "<= 1.5"),
    "dcp.save / save": Ratio("dcp.save", "keepstep save"),
    "torch.save / save": Ratio("torch.save", "keepstep save"),
    "torch_checkpointing save / save": Ratio("torch_checkpointing save", "keepstep save"),
    "dcp.load / restore, of the disk": Ratio("dcp.load, disk", "keepstep restore, disk"),
    "dcp.load / restore": Ratio("dcp.load", "keepstep restore"),
    "torch.load / restore": Ratio("torch.load", "keepstep restore"),
    "torch_checkpointing load / restore, of the disk": Ratio(
        "torch_checkpointing load, disk", "keepstep restore, disk"
    ),
    "torch_checkpointing load / restore": Ratio("torch_checkpointing load", "keepstep restore"),
    "bucket: raw upload / save": Ratio("bucket raw upload", "bucket keepstep save"),
    "bucket: raw download / restore": Ratio("bucket raw download", "bucket keepstep restore"),
    "bucket: dcp.save / save": Ratio("bucket dcp.save", "bucket keepstep save"),
    "bucket: dcp.load / restore": Ratio("bucket dcp.load", "bucket keepstep restore"),
}
MOST_BESIDE_MIB, MOST_METADATA_SECONDS = 64, 2.0


def ratios(seconds: Seconds) -> dict[str, dict[str, float]]:
    """Median, least and greatest over the turns, of what was measured."""
    found = {}
    for name, ratio in RATIOS.items():
        if ratio.one in seconds and ratio.other in seconds:
            both = zip(seconds[ratio.one], seconds[ratio.other], strict=True)
            turns = [one / other for one, other in both]
            found[name] = {
                "median": statistics.median(turns),
                "min": min(turns),
                "max": max(turns),
            }
    return found


def show(found: dict[str, Any]) -> str:
    """The table; `found` is what the JSON holds."""
    seconds: Seconds = found["seconds"]
    gib, lines = found["bytes"] / 2**30, []
    turns = max(map(len, seconds.values()))
    lines.append(f"{found['ranks']} ranks, {gib:.2f} GiB, {turns} turns, medians")
    for name, values in seconds.items():
        median = statistics.median(values)
        lines.append(f"  {name:<48} {median:8.4f} s   {gib / median:8.2f} GiB/s")
    for name, one in found["ratios"].items():
        spread = f"{one['min']:.3f} to {one['max']:.3f}"
        lines.append(
            f"  {name:<48} {one['median']:8.3f}     {spread:<18} asked {RATIOS[name].asked}"
        )
    if memory := found.get("memory"):
        total = memory["snapshot"] + memory["save"]
        parts = ", ".join(f"{name} {value:.1f}" for name, value in memory.items())
        lines.append(
            f"  {'memory beside the slots, snapshot and save':<48} {total:8.1f} MiB ({parts})   "
            f"asked <= {MOST_BESIDE_MIB}"
        )
    if metadata := found.get("metadata"):
        total = sum(metadata.values())
        parts = ", ".join(f"{name} {value:.2f}" for name, value in metadata.items())
        lines.append(
            f"  {'metadata of 100,000 boxes':<48} {total:8.3f} s ({parts})   "
            f"asked <= {MOST_METADATA_SECONDS}"
        )
    lines += [f"  {name} was not measured: {why}" for name, why in found["missing"].items()]
    return "\n".join(lines)


def write(found: dict[str, Any], path: Path) -> None:
    facts = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    facts |= {"torch": torch.__version__}
    path.write_text(json.dumps({**facts, **found}, indent=1) + "\n")
