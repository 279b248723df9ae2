"""`keepstep data lock`: what a dataset is made of, written down once."""

from pathlib import Path
from typing import Annotated

import typer

from ....data import DataFormat, is_local, write_lock_of
from .progress import ByteProgress, shown_bytes
from .stores import Anonymous, Endpoint, say, supply_of


def lock(
    url: Annotated[str, typer.Argument(help="A folder, object or pattern, local or in a store.")],
    out: Annotated[
        Path | None, typer.Option(help="Default: keepstep.lock in a local folder, or NAME.lock.")
    ] = None,
    format: Annotated[DataFormat, typer.Option(help="How it is read.")] = DataFormat.auto,
    dtype: Annotated[str | None, typer.Option(help="Of raw arrays, e.g. uint16.")] = None,
    split: Annotated[str | None, typer.Option(help="Of MDS or prepared tokens.")] = None,
    digests: Annotated[
        bool | None, typer.Option(help="Read every byte; default: of local data only.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Private key (keepstep key); SHA-256 digests, signed.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="An older lock may go.")] = False,
    endpoint: Endpoint = None,
    anonymous: Anonymous = False,
) -> None:
    """Writes down the objects, sizes, tags, counts and digests of a dataset. Moves no data; goes on
    with its digests where it was stopped.

    Example: keepstep data lock s3://bucket/books --digests
    """
    progress = ByteProgress("read")
    with supply_of(url, endpoint, anonymous=anonymous) as supply:
        path, dataset = write_lock_of(
            url,
            supply.store(url),
            out=out,
            format=format,
            split=split,
            dtype=dtype,
            digests=digests,
            sign=sign,
            replace=replace,
            progress=progress,
        )
    progress.close()
    size = sum(obj.size for obj in dataset.objects)
    has_tokens = "dtype" in dataset.facts
    facts = {
        "lock": path,
        "format": dataset.format,
        "objects": f"{len(dataset.objects):,}",
        "tokens" if has_tokens else "samples": f"{int(dataset.counts.sum()):,}",
        "bytes": f"{size:,}",
        "digest": dataset.digest,
    }
    for key, value in facts.items():
        typer.echo(f"{key:<8} {value}")
    if dataset.extent_digests is None:
        where = "" if is_local(url) else " from the store"
        say(f"without digests; --digests would read {shown_bytes(size)}{where}")
