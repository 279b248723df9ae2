"""A real `mlflow server` on the loopback: one run over all jobs, and a model in its registry."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.ports import free_port

from keepstep.trainer.config import TelemetryConfig
from keepstep.trainer.telemetry.sinks.mlflow import MLflowSink
from keepstep.trainer.telemetry.sinks.sink import Ending, RunFacts

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"),
        *("--artifacts-destination", str(tmp_path / "artefacts")),
    ]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": "/usr/bin:/bin"}
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        command, env=variables, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, tmp_path / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()
        log.close()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def written(folder: Path) -> RunFacts:
    """The folder of a run that is over."""
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"steps": 2, "state_digest": "ab" * 16}))
    (folder / "config.yaml").write_text("train: {}\n")
    event = {"kind": "checkpoint", "path": "runs/x/checkpoints/step-000000002-0"}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    data = {"name": "books", "digest": "cd" * 16, "uri": "s3://bucket/books"}
    job = {"datasets": [data], "code": {"commit": "f" * 40, "is_dirty": False}, "seed": 3}
    (folder / "lineage.json").write_text(json.dumps({"jobs": [job]}))
    return RunFacts(folder=folder, name="x", run_id="1" * 32, settings={"train.steps": 2})


def test_a_server_gets_one_run_with_its_files_data_and_model(server: str, tmp_path: Path) -> None:
    config = TelemetryConfig().mlflow
    config.tracking_uri, config.registered_model = server, "books-model"
    facts = written(tmp_path / "run")
    for job in (1, 2):
        sink = MLflowSink(config)
        sink.open(facts, {}, job - 1)
        sink.metrics([{"step": job, "loss": 1.0 / job, "time": 100.0 + job}])
        sink.finish(Ending.finished)
        sink.close()
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("keepstep")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value, one.timestamp) for one in history] == [
        (1, 1.0, 101000),
        (2, 0.5, 102000),
    ]
    assert run.data.tags["mlflow.source.git.commit"] == "f" * 40
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("books", "cd" * 16)
    assert {one.path for one in client.list_artifacts(run.info.run_id)} >= {"config.yaml", "model"}
    (version,) = client.search_model_versions("name='books-model'")  # once, for one state
    assert version.tags["checkpoint"] == "runs/x/checkpoints/step-000000002-0"
