"""`keepstep data bench`: how fast the data of a run comes, and what it waits for."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ....data import Measured, bench
from ...compose import compose
from .progress import shown_bytes
from .stores import say


def bench_command(
    context: typer.Context,
    where: Annotated[str, typer.Argument(help="A URL, or the first override.")],
    seconds: Annotated[float, typer.Option(min=0, help="Of each reading.")] = 10.0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for extents; default: a temporary one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Reads a run's data from its first sample on as fast as it comes: cold, then warm. Takes
    overrides as keepstep train does.

    Example: keepstep data bench s3://bucket/books data.sequence_length=2048 --seconds 30
    """
    is_url = "=" not in where or "://" in where.partition("=")[0]
    config = compose([f"data.path='{where}'" if is_url else where, *context.args])
    train, length = config.train, config.data.sequence_length
    size = train.batch_samples or max(1, train.batch_tokens // length)
    found = bench(config.data, batch_samples=size, seconds=seconds, extents=cache, report=say)
    if as_json:
        typer.echo(json.dumps({word: one.as_dict() for word, one in found.items()}, indent=2))
        return
    typer.echo(f"{'':<22}" + "".join(f"{word:>16}" for word in found))
    shown = [_shown(one) for one in found.values()]
    for key in dict.fromkeys(key for one in shown for key in one):
        typer.echo(f"{key:<22}" + "".join(f"{one.get(key, '-'):>16}" for one in shown))


def _shown(one: Measured) -> dict[str, str]:
    rates, counts = one.as_dict(), one.counts
    lines: dict[str, Any] = {
        "samples/s": f"{rates['samples_per_second']:,.0f}",
        "MB/s": f"{rates['megabytes_per_second']:,.1f}",
        "first batch": f"{one.first_batch_seconds * 1e3:,.1f} ms",
        "longest stall": f"{one.longest_stall_seconds * 1e3:,.1f} ms",
    }
    lines |= {f"waited: {cause}": f"{took:,.2f} s" for cause, took in one.waited_seconds.items()}
    if not counts:
        return lines | {"tier": "local files"}
    names = ("gets", "retries", "hedges", "hedges_won", "throttles", "misses")
    lines |= {name.replace("_", " "): f"{counts[name]:,.0f}" for name in names}
    for name, value in counts.items():
        if name.startswith("retries_"):
            lines[f"retries: {name.removeprefix('retries_')}"] = f"{value:,.0f}"
    lines["bytes from store"] = shown_bytes(counts["fetched_bytes"])
    for name, value in counts.items():
        tier = name.removesuffix("_hit_bytes")
        if tier != name:
            lines[f"hits: {tier}"] = f"{counts[f'{tier}_hits']:,.0f}"
            lines[f"bytes from {tier}"] = shown_bytes(value)
    return lines | {"amplification": f"{counts.get('amplification', 0.0):.2f}"}
