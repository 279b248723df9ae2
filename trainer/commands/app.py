"""The command line `keepstep`: names the sub-commands and turns their errors into one sentence."""

import sys

import typer

from ...checkpoint import CheckpointError
from ...data import ChangedError, CorruptDataError
from ..errors import ConfigError
from ..recovery.verdict import EXIT_FAILED, EXIT_WRONG
from .checkpoint import checkpoint
from .compare import compare
from .data import data
from .doctor import doctor_command
from .init import init_command
from .key import key
from .lineage import audit_command, lineage_command, reproduce_command
from .plan import plan
from .publish import publish
from .report import report_command
from .runs import runs
from .tail import tail
from .train import train

app = typer.Typer(
    name="keepstep",
    help="A PyTorch training runtime that never loses a step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data, name="data")
app.add_typer(checkpoint, name="checkpoint")
app.command(
    "train",
    short_help="Train in this process's node: one rank. Arguments are Hydra overrides.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(train)

app.command("runs", short_help="Show where the runs of a folder stand, and why they ended.")(runs)
app.command("tail", short_help="Follow what a run writes.")(tail)
app.command("report", short_help="Write a run into one HTML file.")(report_command)
app.command("compare", short_help="Show how runs differ, and what they came to.")(compare)
app.command("lineage")(lineage_command)
app.command("audit")(audit_command)
app.command("reproduce")(reproduce_command)
app.command("publish")(publish)
app.command("key", short_help="Make a pair of keys, to sign data and checkpoints with.")(key)
app.command(
    "plan",
    short_help="Show what each layout takes of a rank's memory. Arguments are Hydra overrides.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(plan)
app.command("init", short_help="Write a small project of one's own that trains at once.")(
    init_command
)
app.command(
    "doctor",
    short_help="Check a node, a store and the ranks before a run does. Takes Hydra overrides.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(doctor_command)


def main(*first: str) -> None:
    """Console entry; `first` goes before the command line's own words."""
    try:
        app([*first, *sys.argv[1:]])
    except (ConfigError, ValueError, OSError) as error:
        sys.stderr.write(f"keepstep: {error}\n")
        raise SystemExit(EXIT_WRONG) from error
    except (CorruptDataError, ChangedError, CheckpointError) as error:
        sys.stderr.write(f"keepstep: {error}\n")
        raise SystemExit(EXIT_FAILED) from error
