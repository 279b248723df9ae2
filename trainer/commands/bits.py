"""`keepstep compare A B --bits`: the first step, and the first tensor, in which two runs differ."""

from collections.abc import Sequence
from pathlib import Path

import torch
import typer

from ...checkpoint import read_manifest
from ...checkpoint.offline import Item, items_of
from ..errors import ConfigError
from ..recovery.verdict import EXIT_FAILED
from ..telemetry.reading.parting import Parting, of_bits, of_metrics
from ..telemetry.reading.run import read_run
from .checkpoints.places import listed, say


def compare_bits(runs: Sequence[Path]) -> None:
    """Prints where the bits of two runs part, the loss of each step first, then what they noted of
    their tensors, then the tensors of the checkpoints of equal steps.

    Raises:
        ConfigError: they have no step in common.
        Exit: with code 1, where they differ.
    """
    if len(runs) != 2:
        raise ConfigError(f"--bits: found {len(runs)} runs, needed two; name both runs' folders")
    one, other = map(read_run, runs)
    found = {
        "metrics.jsonl": of_metrics(one.metrics, other.metrics),
        "bits.jsonl": of_bits(*runs),
        "checkpoints": _of_checkpoints(*runs),
    }
    if not any(parting.steps for parting in found.values()):
        raise ConfigError(
            f"{runs[1]}: found no step that {runs[0]} has too, needed one or more; name two runs "
            "of one training"
        )
    for where, parting in found.items():
        typer.echo(f"{where:<14} {_told(parting, where)}")
    parted = [one for one in found.values() if one.step is not None]
    if not parted:
        typer.echo("the same bits")
        return
    # The loss of a step shows the state before it: where both part, a tensor says more.
    earliest = min(parted, key=lambda one: (one.step or 0, one is found["metrics.jsonl"]))
    typer.echo(f"step {earliest.step} is the first that differs, in {earliest.names[0]}")
    raise typer.Exit(EXIT_FAILED)


def _told(parting: Parting, where: str) -> str:
    if not parting.steps:
        hint = "; telemetry.bits_every=1 writes them" if where == "bits.jsonl" else ""
        return f"no step in common{hint}"
    if parting.step is None:
        return f"the same in all {parting.steps} steps in common"
    more = f", and {len(parting.names) - 1} more" if len(parting.names) > 1 else ""
    return (
        f"part at step {parting.step}: {parting.names[0]} is {parting.first} and {parting.second}"
        f"{more}"
    )


def _of_checkpoints(*runs: Path) -> Parting:
    """Reads the tensors of one pair of checkpoints after the other, the earliest first."""
    places = [listed(str(run)) for run in runs]
    by_step = [{found.step: found.folder for found in those} for _, those in places]
    common = sorted(by_step[0].keys() & by_step[1].keys())
    for step in common:
        say(f"comparing the checkpoints of step {step}")
        folders = [steps[step] for steps in by_step]
        items = [
            items_of(where.store, folder, read_manifest(where.store, folder))
            for (where, _), folder in zip(places, folders, strict=True)
        ]
        if (parting := _of_tensors(len(common), step, *items)) is not None:
            return parting
    return Parting(steps=len(common))


def _of_tensors(
    steps: int, step: int, one: Sequence[Item], other: Sequence[Item]
) -> Parting | None:
    before, after = ({item.name: item for item in items} for items in (one, other))
    names: list[str] = []
    shown = ("", "")
    for name in sorted({*before, *after}):
        found = _difference(before.get(name), after.get(name))
        if found is not None:
            shown = shown if names else found
            names.append(name)
    if not names:
        return None
    return Parting(steps=steps, step=step, names=names, first=shown[0], second=shown[1])


def _difference(before: Item | None, after: Item | None) -> tuple[str, str] | None:
    """What the first element that differs is in each."""
    if before is None or after is None:
        one, other = ("there" if item else "not there" for item in (before, after))
        return one, other
    kinds = [f"{item.dtype}{list(item.shape)}" for item in (before, after)]
    if kinds[0] != kinds[1]:
        return kinds[0], kinds[1]
    tensors = [item.read().contiguous().reshape(-1) for item in (before, after)]
    size = tensors[0].element_size()
    rows = [tensor.view(torch.uint8).view(-1, size) for tensor in tensors]
    differs = (rows[0] != rows[1]).any(1)
    if not bool(differs.any()):
        return None
    at = int(differs.to(torch.uint8).argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(at), before.shape)]
    return f"{tensors[0][at].item()!r} at {place}", f"{tensors[1][at].item()!r}"
