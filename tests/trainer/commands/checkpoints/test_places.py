"""Places by URL, and runs whose checkpoints lie elsewhere, are named as folders are."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training import copied

Keepstep = Callable[..., Any]
_count = itertools.count()


@pytest.fixture
def url() -> str:
    """A place that is empty."""
    return f"memory://commands-{next(_count)}/run"


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def test_a_copy_in_a_bucket_is_listed_verified_compared_and_pruned(
    keepstep: Keepstep, run: Path, url: str
) -> None:
    for one in sorted((run / "checkpoints").glob("step-*")):
        assert keepstep("copy", one, url).exit_code == 0
    assert len(keepstep("list", url).stdout.splitlines()) == 3
    assert keepstep("verify", url).stdout.count(": whole\n") == 2
    assert keepstep("diff", run, f"{url}/{newest(run).name}").exit_code == 0
    assert keepstep("prune", url, "--keep", 1).stdout.startswith(f"{url}/step-000000002-")
    assert len(keepstep("list", url).stdout.splitlines()) == 2


def test_a_runs_folder_in_a_bucket_names_the_place_inside(
    keepstep: Keepstep, run: Path, url: str
) -> None:
    assert keepstep("copy", run, f"{url}/checkpoints").exit_code == 0
    assert newest(run).name in keepstep("list", url).stdout


def test_a_run_whose_checkpoints_lie_elsewhere_is_named_by_its_folder(
    keepstep: Keepstep, run: Path, tmp_path: Path, url: str
) -> None:
    assert keepstep("copy", run, url).exit_code == 0
    other = copied(run, tmp_path / "run")
    shutil.rmtree(other / "checkpoints")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(
        config.replace("checkpoint:\n  path: null", f"checkpoint:\n  path: {url}")
    )
    assert newest(run).name in keepstep("list", other).stdout
    done = keepstep("export", "huggingface", other, tmp_path / "out")
    assert done.exit_code == 0
    assert done.stderr == f"taking {url}/{newest(run).name}\n"
