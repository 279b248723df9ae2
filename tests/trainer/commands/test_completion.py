"""The tab key, by the protocol that typer's scripts speak with the command."""

import subprocess

import pytest
from typer.testing import CliRunner

from keepstep.trainer.commands.app import app


def bash(*words: str) -> list[str]:
    """What bash is answered when the last of these words is being typed."""
    asked = {
        "_KEEPSTEP_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("keepstep", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = CliRunner().invoke(app, [], env=asked, prog_name="keepstep")
    return done.stdout.split()


def test_commands_and_their_sub_commands_are_offered() -> None:
    assert {"train", "plan", "data", "checkpoint", "doctor", "init"} <= set(bash(""))
    assert bash("doc") == ["doctor"]
    assert bash("checkpoint", "e") == ["export"]
    assert bash("plan", "--r") == ["--ranks"]


@pytest.mark.parametrize("command", ["train", "plan"])
def test_keys_and_choices_of_overrides_are_offered(command: str) -> None:
    assert bash(command, "opt") == ["optim.", "optim="]
    assert bash(command, "train.st") == ["train.steps="]


def test_choices_behind_the_equals_sign_come_as_bash_wants_them() -> None:
    # For `optim=l` bash speaks of three words.
    assert bash("train", "optim", "=", "l") == ["lion"]
    assert bash("train", "optim", "=") == ["adamw", "lion", "muon", "sgd"]
    assert bash("train", "-m", "optim", "=", "lion", "optim.l") == ["optim.lr="]
    assert "train." in bash("train", "optim", "=", "lion", "")


def test_zsh_is_answered_in_whole_words() -> None:
    asked = {"_KEEPSTEP_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "keepstep train optim=l"}
    done = CliRunner().invoke(app, [], env=asked, prog_name="keepstep")
    assert '"optim=lion"' in done.stdout


def test_the_script_that_bash_reads_is_whole_and_speaks_to_the_command() -> None:
    asked = {"_KEEPSTEP_COMPLETE": "source_bash"}
    script = CliRunner().invoke(app, [], env=asked, prog_name="keepstep").stdout
    assert "_KEEPSTEP_COMPLETE=complete_bash" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)


def test_words_reach_hydra_in_their_order_flags_too() -> None:
    done = CliRunner().invoke(app, ["train", "--cfg", "job", "train.steps=77"])
    assert done.exit_code == 0, done.output
    assert "  steps: 77\n" in done.stdout
