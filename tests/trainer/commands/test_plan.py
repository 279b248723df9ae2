"""`keepstep plan`: memory of each layout, worked out on meta in a simulated world."""

import pytest
from support.world import run_world
from typer.testing import CliRunner

from keepstep.trainer.commands.app import app


def lines(*words: str) -> list[str]:
    # In a fork: torch remembers meshes by their ranks, and would take a world's for another's.
    (done,) = run_world(1, lambda _: ran(["plan", *words]), join=False)
    assert done[0] == 0, done
    return done[1].splitlines()


def ran(words: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.stdout


def test_70_billion_parameters_are_laid_out_on_64_ranks_that_are_not_there() -> None:
    asked = ("--ranks", "64", "model=llama_70b", "parallel.tensor=8")
    title, heads, found = lines(*asked)
    assert title.startswith("llama_70b on 64 ranks, precision fp32")
    assert heads.split() == ["layout", "parameters", "gradients", "optimizer", "gathered", "total"]
    assert found.startswith("tensor 8, shard 8")
    parameters, gradients, optimizer, gathered, total = map(float, found.split()[-5:])
    assert parameters == gradients == pytest.approx(optimizer / 2, abs=0.01)
    assert parameters == pytest.approx(70.55e9 * 4 / 64 / 2**30, rel=0.05)
    assert total == pytest.approx(parameters + gradients + optimizer + gathered, abs=0.03)


@pytest.mark.slow
def test_without_a_degree_several_layouts_are_shown_and_refusals_with_their_reason() -> None:
    found = lines("--ranks", "8", "model=llama_tiny")
    assert len(found) == 2 + 9
    assert found[2].startswith("shard 8 ")
    refused = next(line for line in found if line.startswith("tensor 8 "))
    assert "found 8 for 4 attention heads" in refused
