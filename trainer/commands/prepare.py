"""`keepstep data prepare`: text -> token shards, by one process, several, or torchrun's ranks.

A thin face over data.prepare; the settings of PrepareConfig are options of the same names.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ...data import DataConfig, DataFormat, prepare
from ...data.prepare import Deduplicate, Normalise, OnBad, PrepareConfig
from ...parallel import World, read_world

_HELP: dict[str, tuple[Any, str]] = {
    "normalise": (Normalise, "Unicode NFC, line ends, control characters; folded: blanks too."),
    "filters": (list[str], "gopher, gopher_quality, gopher_repetition, a rule, or rule=bound."),
    "deduplicate": (Deduplicate, "Drop documents of equal text, or of nearly equal text too."),
    "near_threshold": (float, "Share of word 5-grams from which texts are nearly equal."),
    "on_bad": (OnBad, "What to do about records that cannot be read."),
    "max_bad": (int, "Bad records that may be skipped."),
    "workers": (int, "Processes; 0: one a core, or one where there is little text."),
}
_NAMES = {"filters": ("--filter",)}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes **settings one option for each setting of PrepareConfig that a
    person sets; typer reads them from the signature."""
    signature = inspect.signature(command)
    defaults = {field.name: field.default for field in dataclasses.fields(PrepareConfig)}
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=[] if name == "filters" else defaults[name],
            annotation=Annotated[kind, typer.Option(*_NAMES.get(name, ()), help=words)],
        )
        for name, (kind, words) in _HELP.items()
    ]
    kept = [x for x in signature.parameters.values() if x.kind is not x.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    command.__annotations__ |= {x.name: x.annotation for x in added}
    return command


@with_settings
def prepare_command(
    source: Annotated[
        str, typer.Argument(help="shakespeare, stdlib, or a folder, file, glob or URL of text.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="A new or empty folder; default: the cache.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field or column with the text.")] = "text",
    vocabulary_size: Annotated[int, typer.Option(help="Tokens of the trained tokenizer.")] = 4096,
    tokenizer: Annotated[
        str | None, typer.Option(help="A tokenizer.json to use instead of training one.")
    ] = None,
    eval_fraction: Annotated[float, typer.Option(help="Part of the documents held out.")] = 0.05,
    input_format: Annotated[
        DataFormat, typer.Option("--format", metavar="FORMAT", help="text, jsonl, parquet, ...")
    ] = DataFormat.auto,
    seed: Annotated[int, typer.Option(help="Of the split by document.")] = 0,
    **settings: Any,
) -> None:
    """Turns text, JSONL, Parquet or WebDataset into token shards, once; prints their folder.
    Stopped, the same command goes on. Under torchrun the ranks share the work and the disk.

    Example: keepstep data prepare ~/texts --out shards --filter gopher --deduplicate near
    """
    world = read_world()
    is_named = source in ("shakespeare", "stdlib")
    config = DataConfig(
        name=source if is_named else Path(source).stem or "data",
        path=None if is_named else source,
        format=input_format,
        text_field=text_field,
        vocabulary_size=vocabulary_size,
        tokenizer=tokenizer,
        eval_fraction=eval_fraction,
        seed=seed,
    )
    folder = prepare(
        config,
        out=out,
        report=lambda words: typer.echo(words, err=True),
        settings=PrepareConfig(**{**settings, "workers": settings["workers"] or _workers(world)}),
        rank=world.rank,
        world_size=world.world_size,
    )
    if world.rank == 0:
        typer.echo(folder)


def _workers(world: World) -> int:
    """This rank's share of the machine's cores; 0 leaves it to the amount of text."""
    if world.world_size == 1:
        return 0
    return max(1, (os.cpu_count() or 1) // world.local_world_size)
