"""`keepstep data`: prepare text, and look at datasets of any kind."""

import typer

from .datasets.bench import bench_command
from .datasets.explain import explain_command
from .datasets.inspect import inspect_command
from .datasets.lock import lock
from .datasets.verify import verify
from .prepare import prepare_command

data = typer.Typer(help="Prepare text, look at prepared data, check it.", no_args_is_help=True)


data.command("prepare")(prepare_command)


data.command("lock")(lock)
data.command("inspect")(inspect_command)
data.command("verify")(verify)
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
data.command("explain", context_settings=_OVERRIDES)(explain_command)
data.command("bench", context_settings=_OVERRIDES)(bench_command)
