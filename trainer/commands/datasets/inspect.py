"""`keepstep data inspect`: what a dataset holds."""

from pathlib import Path
from typing import Annotated

import typer

from ....data import DataFormat, describe, histogram, inspect, is_prepared
from .stores import Anonymous, Endpoint, supply_of


def inspect_command(
    where: Annotated[str, typer.Argument(help="A folder, object, pattern or lock, anywhere.")],
    sequence_length: Annotated[
        int, typer.Option(min=1, help="Tokens of a sample, of prepared folders.")
    ] = 128,
    format: Annotated[DataFormat, typer.Option(help="How it is read.")] = DataFormat.auto,
    dtype: Annotated[str | None, typer.Option(help="Of raw arrays, e.g. uint16.")] = None,
    split: Annotated[str | None, typer.Option(help="Of MDS or prepared tokens.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for what is fetched.")] = None,
    endpoint: Endpoint = None,
    anonymous: Anonymous = False,
) -> None:
    """Prints format, columns, counts, bytes, a few samples and a histogram of lengths. Reads some
    250 records.

    Example: keepstep data inspect s3://bucket/images
    """
    if is_prepared(where) and split is None:
        for key, value in inspect(Path(where), sequence_length).items():
            typer.echo(f"{key:<22} {value}")
        return
    with supply_of(where, endpoint, anonymous=anonymous, folder=cache) as supply:
        found = describe(where, supply, format=format, dtype=dtype, split=split)
    dataset = found.dataset
    is_tokens = "dtype" in dataset.facts
    facts = {
        "format": dataset.format,
        "url": dataset.url,
        "objects": f"{len(dataset.objects):,}",
        "tokens" if is_tokens else "samples": f"{found.samples:,}",
        "bytes": f"{sum(obj.size for obj in dataset.objects):,}",
        "digest": dataset.digest,
    }
    for key, value in facts.items():
        typer.echo(f"{key:<22} {value}")
    for name, kind in found.schema.items():
        typer.echo(f"{'column':<22} {name}: {kind}")
    for number, words in enumerate(found.excerpts):
        typer.echo(f"{'document' if is_tokens else 'sample'} {number:<13} {words}")
    lines = histogram(found.lengths)
    if lines:
        unit = "tokens of a document" if is_tokens else "bytes, letters and numbers of a sample"
        typer.echo(f"lengths: {unit}, {len(found.lengths):,} looked at")
        typer.echo("\n".join(lines))
