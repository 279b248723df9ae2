"""Options by which all these commands reach a store, and the stores themselves."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ....data import DataConfig, StoreConfig, Supply

Endpoint = Annotated[
    str | None, typer.Option(help="URL of an S3 server; default: the SDK's settings.")
]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Sign nothing: public buckets.")]


@contextmanager
def supply_of(
    url: str, endpoint: str | None, *, anonymous: bool, folder: Path | None = None
) -> Iterator[Supply]:
    """The stores of what lies at `url`; they ask again where that may help, and say so."""
    config = DataConfig(
        name="data", path=url, store=StoreConfig(endpoint_url=endpoint, anonymous=anonymous)
    )
    if folder is not None:
        config.cache.folder = str(folder)
    supply = Supply(config, say)
    try:
        yield supply
    finally:
        supply.close()


def say(words: str) -> None:
    """Something a person should see, apart from what the command prints."""
    sys.stderr.write(f"{words}\n")
