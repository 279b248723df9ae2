"""One run that every sink has seen: its worker was killed, the whole job was killed, and a second
job finished it."""

import warnings

import pytest
from mlflow import MlflowClient
from support.job import Ran, start_job, tiny
from support.shown import Shown, has_steps, words
from support.world import run_world


def _make_tables(shown: Shown) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SQLAlchemy, about how MLflow uses it
        place = shown.folder.parent / "artefacts"
        client = MlflowClient(shown.mlflow)
        return int(client.create_experiment("tests", artifact_location=str(place)))


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("shown")
    found = Shown(Ran(folder / "run"))
    run_world(1, lambda _: _make_tables(found), join=False)  # seconds, and not what is tested
    slow, plan = tiny(sleep_seconds=0.05), "chaos.plan=[{do:kill,rank:0,step:4}]"
    with start_job(1, words(found, plan), folder=folder, recipe=slow) as job:
        has_steps(job, found, 14)
        job.until(lambda: (found.folder / "sinks" / "mlflow.json").exists(), 60.0, "MLflow")
        job.kill_tree()
    recipe = tiny(sleep_seconds=0.01)
    with start_job(1, words(found, plan), folder=folder, recipe=recipe) as job:
        job.until(found.scrape, 60.0, "an answer of the endpoint")
        assert job.wait(120.0) == [0], job.errors(0)
        assert "not all was delivered" not in job.output(0)
        assert job.processes() == {}
    return found
