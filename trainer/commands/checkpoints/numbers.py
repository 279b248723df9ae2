"""`keepstep checkpoint diff` and `average`: what the numbers of checkpoints are to one another."""

from fnmatch import fnmatchcase
from typing import Annotated

import typer

from ....checkpoint import Cargo
from ....checkpoint.offline import average, compare, write
from ...errors import ConfigError
from ...recovery.verdict import EXIT_FAILED
from ..datasets.progress import ByteProgress
from .places import One, choose, locate


def diff_command(
    first: One,
    second: One,
    top: Annotated[int, typer.Option(help="How many changed tensors are shown.")] = 10,
    tensors: Annotated[str, typer.Option(help="Only tensors whose names match this glob.")] = "*",
) -> None:
    """Compares two checkpoints; exit code 1 where they differ.

    Prints names that only the first (-) or only the second (+) has, other dtypes and shapes (~),
    and of each tensor that changed (!) the largest absolute and relative change of an element.

    Example: keepstep checkpoint diff runs/a runs/b --tensors 'model.*' --top 5
    """
    one, other = (
        [item for item in choose(place).items() if fnmatchcase(item.name, tensors)]
        for place in (first, second)
    )
    progress = ByteProgress("compared")
    found = compare(one, other, progress=progress)
    progress.close()
    for sign, names in (("-", found.only_first), ("+", found.only_second), ("~", found.kinds)):
        for name in names:
            typer.echo(f"{sign} {name}")
    for change in found.changes[: max(top, 0)]:
        typer.echo(
            f"! {change.name}  absolute {change.absolute:.3g}  relative {change.relative:.3g}"
        )
    if len(found.changes) > top:
        typer.echo(f"! {len(found.changes) - max(top, 0)} more changed; see them with --top")
    typer.echo(f"{found.num_equal} tensors are equal, {len(found.changes)} changed")
    if not found.is_equal:
        raise typer.Exit(EXIT_FAILED)


def average_command(
    out: Annotated[str, typer.Argument(help="The place that gets the average.")],
    sources: Annotated[list[str], typer.Argument(help="Checkpoints of one model, the last leads.")],
    weights: Annotated[
        str | None, typer.Option(help="A number for each, such as 1,2,2; default: all the same.")
    ] = None,
) -> None:
    """Writes the mean of several checkpoints as a new one.

    Floating-point tensors are averaged in float64; counts, step and progress are the last one's, so
    that a run can go on from there.

    Example: keepstep checkpoint average runs/mean runs/a runs/b runs/c --weights 1,1,2
    """
    shares = _weights(weights, len(sources))
    there, chosen = locate(out, is_new=True), [choose(source) for source in sources]
    if there.folder is not None:
        raise ConfigError(f"{out}: found the name of a checkpoint, needed a place for a new one")
    last = chosen[-1].manifest
    parents = {"averaged": [one.address for one in chosen], "weights": shares}
    cargo = Cargo(step=last.step, topology=last.topology, progress=last.progress, lineage=parents)
    progress = ByteProgress("averaged")
    items = average([one.items() for one in chosen], shares)
    folder = write(there.store, items, cargo, progress=progress)
    progress.close()
    typer.echo(there.store.address(folder))


def _weights(words: str | None, count: int) -> list[float]:
    if words is None:
        return [1.0] * count
    try:
        return [float(word) for word in words.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--weights: found {words!r}, needed {count} numbers, such as 1,2,2; correct it"
        ) from error
