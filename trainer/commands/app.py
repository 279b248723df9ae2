"""The command line `keepstep`: names the sub-commands and turns their errors into one sentence."""

import sys

import typer

from ...data import ChangedError, CorruptDataError
from ..errors import ConfigError
from ..recovery.verdict import EXIT_FAILED, EXIT_WRONG
from .checkpoint import checkpoint
from .data import data
from .plan import plan
from .train import train

app = typer.Typer(
    name="keepstep",
    help="A PyTorch training runtime that never loses a step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data, name="data")
app.add_typer(checkpoint, name="checkpoint")
app.command(
    "train",
    help="Train in this process's node: one rank. Arguments are Hydra overrides.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(train)

app.command(
    "plan",
    help="Show what each layout takes of a rank's memory. Arguments are Hydra overrides.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(plan)


def main() -> None:
    """Console entry."""
    try:
        app()
    except (ConfigError, ValueError, OSError) as error:
        sys.stderr.write(f"keepstep: {error}\n")
        raise SystemExit(EXIT_WRONG) from error
    except (CorruptDataError, ChangedError) as error:
        sys.stderr.write(f"keepstep: {error}\n")
        raise SystemExit(EXIT_FAILED) from error
