"""`keepstep checkpoint`: look at checkpoints, move, keep and compare them, without a model."""

import typer

from .checkpoints.exports import export_command
from .checkpoints.imports import import_command
from .checkpoints.keep import copy_command, prune_command, tag_command
from .checkpoints.look import list_command, show_command, verify_command
from .checkpoints.numbers import average_command, diff_command

checkpoint = typer.Typer(
    help="Look at checkpoints; copy, keep, compare, average and convert them.",
    no_args_is_help=True,
)

checkpoint.command("list")(list_command)
checkpoint.command("show")(show_command)
checkpoint.command("verify")(verify_command)
checkpoint.command("copy")(copy_command)
checkpoint.command("prune")(prune_command)
checkpoint.command("tag")(tag_command)
checkpoint.command("diff")(diff_command)
checkpoint.command("average")(average_command)
checkpoint.command("export")(export_command)
checkpoint.command("import")(import_command)
