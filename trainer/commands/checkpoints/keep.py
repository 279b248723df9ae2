"""`keepstep checkpoint copy`, `prune` and `tag`: what lies where, and what stays."""

from typing import Annotated

import typer

from ....checkpoint import Found, Keep, Store, committed
from ....checkpoint.listing import remove_checkpoint
from ....checkpoint.offline import copy
from ....checkpoint.prune import is_complete, tag, to_prune
from ....checkpoint.retention import BestMode
from ...errors import ConfigError
from ..datasets.progress import ByteProgress
from .places import One, Place, choose, locate, proven, say


def copy_command(
    source: One,
    target: Annotated[str, typer.Argument(help="The place that gets it: a folder, or a run's.")],
) -> None:
    """Copies a checkpoint to another place, every byte proven.

    The manifest comes last: the copy counts once it is whole. A damaged checkpoint is refused with
    exit code 1, and nothing is left of the copy.

    Example: keepstep checkpoint copy runs/a/checkpoints/step-000000100-1a2b3c4d /backup/a
    """
    chosen, there = choose(source), locate(target, is_new=True)
    if there.folder is not None:
        raise ConfigError(
            f"{target}: found the name of a checkpoint, needed a place; the copy keeps its own name"
        )
    progress = ByteProgress("copied")
    copy(chosen.where.store, chosen.folder, there.store, progress=progress)
    progress.close()
    typer.echo(there.store.address(chosen.folder))


def prune_command(
    place: Place,
    keep: Annotated[int, typer.Option(help="How many of the newest whole ones stay.")] = 3,
    every: Annotated[int, typer.Option(help="Multiples of this many steps stay; 0: none.")] = 0,
    best: Annotated[int, typer.Option(help="How many of the best by --metric stay.")] = 0,
    metric: Annotated[str, typer.Option(help="eval_loss or loss.")] = "eval_loss",
    mode: Annotated[BestMode, typer.Option(help="Which value is the better one.")] = BestMode.min,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing.")] = False,
) -> None:
    """Removes checkpoints that no rule keeps, and prints each.

    Asks nothing. Those that would stay are read first, every byte: a damaged one does not count, so
    that a whole one is always left. Tagged ones stay.

    Example: keepstep checkpoint prune runs/a --keep 2 --every 1000 --dry-run
    """
    where = locate(place)
    if where.folder is not None:
        raise ConfigError(f"{place}: found one checkpoint, needed a place or a run's folder")
    if keep < 1:
        raise ConfigError(f"--keep: found {keep}, needed 1 or more; one whole one always stays")
    rule = Keep(last=keep, every_steps=every, best=best, mode=mode, metric=metric)
    for found in _proven_removals(where.store, rule):
        if not dry_run:
            remove_checkpoint(where.store, found.folder)
        typer.echo(f"{where.store.address(found.folder)}{': would go' * dry_run}")


def tag_command(
    one: One,
    name: Annotated[str, typer.Argument(help="Letters, digits, dots, dashes, underscores.")],
) -> None:
    """Marks a checkpoint, so that no retention removes it.

    Example: keepstep checkpoint tag runs/a/checkpoints/step-000000100-1a2b3c4d v1.0
    """
    chosen = choose(one)
    tag(chosen.where.store, chosen.folder, name)
    typer.echo(f"{chosen.address}: {name}")


def _proven_removals(store: Store, rule: Keep) -> list[Found]:
    """What goes, once each that stays in its place has been read in full. What is damaged changes
    what stays, and so what has to be read."""
    known: dict[str, bool] = {}

    def is_whole(found: Found) -> bool:
        return known.get(found.folder, is_complete(store, found))

    while True:
        gone = to_prune(store, rule, is_whole=is_whole)
        stay = [one for one in committed(store) if one not in gone]
        unread = [one for one in stay if one.folder not in known and is_complete(store, one)]
        if not unread:
            return gone
        for one in unread:
            damages = proven(store, one.folder)
            known[one.folder] = not damages
            for damage in damages:
                say(f"{damage.path}/{damage.file}: {damage.reason}; it does not count as kept")
