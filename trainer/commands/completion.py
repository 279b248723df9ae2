"""What a shell offers while a person types overrides: Hydra's own answers, without its own script,
which knows no sub-commands."""

from collections.abc import Sequence
from typing import Annotated

import hydra
import typer
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.completion_plugin import DefaultCompletionPlugin

from ..compose import register_schemas


def complete_override(context: typer.Context, incomplete: str) -> list[str]:
    """Keys, groups and choices that go on from `incomplete`, such as `optim=lion` for `optim=l`.

    bash takes `=` for a word of its own, and wants what stands behind it alone.
    """
    before = _joined(context.params.get("overrides") or ())
    last = before[-1] if before else ""
    if not incomplete and "=" not in last and last and not last.startswith("-"):
        last += "="  # typer leaves it out where it is the last thing typed
    head = last if last.endswith("=") else ""
    return [word.removeprefix(head) for word in _query(head + incomplete)]


def _joined(words: Sequence[str]) -> list[str]:
    """Overrides as they were typed, of the words that bash makes of them."""
    found: list[str] = []
    for word in words:
        if found and (word == "=" or found[-1].endswith("=")):
            found[-1] += word
        else:
            found.append(word)
    return found


def _query(line: str) -> list[str]:
    register_schemas()
    with hydra.initialize_config_module("keepstep.configs", version_base="1.3"):
        plugin = DefaultCompletionPlugin(GlobalHydra.instance().config_loader())
        found = plugin._query(config_name="run", line=line)
    return [word for word in found if not word.endswith("_schema")]  # types, and no choices


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Hydra overrides, such as train.steps=50.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
