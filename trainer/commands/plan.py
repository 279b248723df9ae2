"""`keepstep plan`: what each layout takes of a rank's memory, without a weight or a GPU."""

import logging
from typing import Annotated

import typer

from ..compose import compose
from ..config import RunConfig
from ..footprint import Footprint, fullest_rank
from ..models.choose import choose
from .completion import Overrides

_DEGREES = ("replicate", "context", "tensor", "pipeline", "expert")
# What is worth a look where no degree is asked for: one axis each, then the usual products.
_LAYOUTS = (
    *("parallel.shard=-1", "parallel.replicate=8", "parallel.tensor=8"),
    *("parallel.pipeline=4", "parallel.pipeline=8 parallel.schedule=Interleaved1F1B"),
    *("parallel.context=8", "parallel.pipeline=4 parallel.tensor=8"),
    *("parallel.tensor=8 parallel.context=2", "parallel.replicate=2 parallel.tensor=8"),
)


def plan(
    overrides: Overrides = None,
    *,
    ranks: Annotated[int, typer.Option(help="Ranks of the simulated world.", min=1)] = 8,
) -> None:
    """Prints the bytes that the fullest rank holds of parameters, gradients, AdamW's state and what
    FSDP gathers; activations come on top. With a degree among the overrides that layout alone.

    Example: keepstep plan --ranks 64 model=llama_70b data.sequence_length=8192
    """
    words = overrides or []
    # Simulated worlds come and go; torch says at each that nothing is sent.
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    asked = any(word.startswith("parallel.") for word in words)
    layouts = [""] if asked else _LAYOUTS
    config = compose(words)
    typer.echo(
        f"{config.model.name} on {ranks} ranks, precision {config.precision.name}; GiB on the "
        "fullest rank, without activations"
    )
    heads = ("parameters", "gradients", "optimizer", "gathered", "total")
    typer.echo(f"{'layout':<44}" + "".join(f"{head:>12}" for head in heads))
    for layout in layouts:
        try:
            config = compose([*words, *layout.split()])
            found = _fullest(config, ranks)
            shown = "".join(f"{getattr(found, head) / 2**30:>12.2f}" for head in heads)
        except ValueError as error:
            shown = f"  {error}"
        typer.echo(f"{_spelled(config, ranks):<44}{shown}")


def _fullest(config: RunConfig, ranks: int) -> Footprint:
    build, described = choose(config, vocabulary_size=config.data.vocabulary_size)
    return fullest_rank(config, build, described, world_size=ranks)


def _spelled(config: RunConfig, ranks: int) -> str:
    """The degrees above 1, and what is left to shard."""
    degrees = {name: getattr(config.parallel, name) for name in _DEGREES}
    fixed = 1
    for name in _DEGREES[:-1]:
        fixed *= degrees[name]
    degrees["shard"] = ranks // fixed if config.parallel.shard == -1 else config.parallel.shard
    return ", ".join(f"{name} {n}" for name, n in degrees.items() if n > 1) or "one rank"
