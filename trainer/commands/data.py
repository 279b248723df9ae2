"""`keepstep data`: prepare, inspect and verify token shards."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...data import DataConfig, DataFormat, inspect, prepare, verify
from ..recovery.verdict import EXIT_FAILED

data = typer.Typer(help="Prepare text, look at prepared data, check it.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="A folder of prepared token shards.")]


@data.command("prepare")
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
        DataFormat, typer.Option("--format", help="How the source is read.")
    ] = (DataFormat.auto),
    seed: Annotated[int, typer.Option(help="Of the split by document.")] = 0,
) -> None:
    """Turns text, JSONL or Parquet into token shards, once; prints their folder."""
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
    typer.echo(prepare(config, out=out, report=lambda words: typer.echo(words, err=True)))


@data.command("inspect")
def inspect_command(
    folder: Folder,
    sequence_length: Annotated[int, typer.Option(help="Tokens of a sample.")] = 128,
) -> None:
    """Prints what a folder of token shards holds."""
    for key, value in inspect(folder, sequence_length).items():
        typer.echo(f"{key:<22} {value}")


@data.command("verify")
def verify_command(folder: Folder) -> None:
    """Reads every byte and compares digests; exit code 1 where one is wrong."""
    problems = verify(folder)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if problems:
        raise typer.Exit(EXIT_FAILED)
    typer.echo(f"{folder}: whole")
