"""`keepstep data verify`: is every byte what was locked?"""

import sys
from typing import Annotated

import typer

from ....data import check
from ...recovery.verdict import EXIT_FAILED
from .progress import ByteProgress, shown_bytes
from .stores import Anonymous, Endpoint, supply_of


def verify(
    where: Annotated[str, typer.Argument(help="A lock, or the folder or URL that holds one.")],
    endpoint: Endpoint = None,
    anonymous: Anonymous = False,
) -> None:
    """Compares sizes, tags and, where they are recorded, digests of all objects with the lock or
    the manifest; names each that is wrong, and exits with 1 then.

    Example: keepstep data verify s3://bucket/books
    """
    progress = ByteProgress("read")
    with supply_of(where, endpoint, anonymous=anonymous) as supply:
        found = check(where, supply, progress=progress)
    progress.close()
    for problem in found.problems:
        sys.stderr.write(f"{problem}\n")
    if found.problems:
        raise typer.Exit(EXIT_FAILED)
    if found.digested_bytes < found.bytes:
        sys.stderr.write(
            f"compared sizes and tags of {found.objects:,} objects, and the bytes of "
            f"{shown_bytes(found.digested_bytes)} of {shown_bytes(found.bytes)}\n"
        )
    typer.echo(f"{where}: whole")
