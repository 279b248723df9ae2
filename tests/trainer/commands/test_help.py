"""Help fits a screen, and shows by an example how each command is called."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from keepstep.trainer.commands.app import app


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
    for name, one in (inner or {}).items():
        yield from walk(one, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_an_example_of_itself(name: str) -> None:
    _, found, example = (COMMANDS[name].help or "").partition("Example: ")
    assert found, f"keepstep {name} --help: found no 'Example: ', needed one in its docstring"
    assert example.split("\n")[0].startswith(f"keepstep {name} ")


def test_help_fits_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = CliRunner().invoke(app, ["--help"]).output.strip().splitlines()
    assert len(lines) <= 30
    assert {line.split()[1] for line in lines if line.startswith("│ ")} >= {
        name.split()[0] for name in COMMANDS
    }


def test_help_of_a_command_shows_its_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = CliRunner().invoke(app, ["runs", "--help"]).output
    assert "Example: keepstep runs runs --watch" in shown
