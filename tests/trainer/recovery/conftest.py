"""Runs that nothing disturbed, one a number of ranks, for all the others to be equal to."""

from pathlib import Path

import pytest
from support.job import Ran, overrides, start_job

UNDISTURBED: dict[int, Ran] = {}


@pytest.fixture(scope="session")
def undisturbed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def undisturbed(undisturbed_folder: Path):  # type: ignore[no-untyped-def]
    """undisturbed(size) -> the run of `overrides` on that many ranks, made once."""

    def run(size: int) -> Ran:
        if size not in UNDISTURBED:
            folder = undisturbed_folder / str(size)
            with start_job(size, overrides(folder), folder=undisturbed_folder) as job:
                assert job.wait() == [0] * size, job.errors(0)
            UNDISTURBED[size] = Ran(folder)
        return UNDISTURBED[size]

    return run
