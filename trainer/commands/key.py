"""`keepstep key`: a pair of keys to sign with and to check signatures by."""

from pathlib import Path
from typing import Annotated

import typer

from ...data.seal import make_keys


def key(
    path: Annotated[Path, typer.Argument(help="Of the private key; the public one is PATH.pub.")],
) -> None:
    """Makes an Ed25519 key pair. Keep the private one to yourself, give the public one to runs.

    Example: keepstep key ~/.keepstep/signing
    """
    typer.echo(f"public key: {make_keys(path)}")
