"""`keepstep data explain`: what a run reads at a position, from where, and on which rank."""

import re
from typing import Annotated

import typer

from ....data import Piece, explain, open_corpus, order_of
from ...compose import compose
from ...errors import ConfigError
from .stores import say

_MOST = 1000


def explain_command(
    context: typer.Context,
    position: Annotated[str, typer.Argument(help="A position, or FIRST:LAST, both included.")],
    ranks: Annotated[
        int, typer.Option(min=1, help="Ranks that read different data: replicate x shard.")
    ] = 1,
) -> None:
    """Says of a position (samples of the run before it) which sample stands there: its object and
    bytes, where they are now, when they are next wanted, and who reads them when. Takes overrides
    as keepstep train does.

    Example: keepstep data explain 4096:4100 --ranks 8 data.path=s3://bucket/books
    """
    first, last = _positions(position)
    config = compose(context.args)
    train, length = config.train, config.data.sequence_length
    size = train.batch_samples or max(1, train.batch_tokens // length)
    corpus = open_corpus(config.data, report=say)
    try:
        found = explain(
            corpus,
            order_of(corpus.train, config.data),
            first,
            last,
            batch_samples=size,
            microbatch_samples=train.microbatch_samples,
            ranks=ranks,
        )
    finally:
        corpus.close()
    for one in found:
        source = f" of {one.source}" if one.source else ""
        again = "never again" if one.next_use is None else f"next from position {one.next_use}"
        typer.echo(
            f"position {one.position}: epoch {one.epoch}, sample {one.sample}{source}; "
            f"step {one.step}, rank {one.rank} of {ranks}, micro-batch {one.microbatch}, "
            f"row {one.row}; {again}"
        )
        for piece in one.pieces:
            typer.echo(f"  {piece.url} [{piece.start}, {piece.stop}) {_where(piece)}")


def _positions(words: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", words)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
    if not first <= last < first + _MOST:
        raise ConfigError(
            f"{words}: found no position, needed one such as 4096, or FIRST:LAST of {_MOST} at "
            "most; count samples from the run's start"
        )
    return first, last


def _where(piece: Piece) -> str:
    if not piece.extents:
        return "local file"
    return ", ".join(f"extent {number} in {tier}" for number, tier in piece.extents)
