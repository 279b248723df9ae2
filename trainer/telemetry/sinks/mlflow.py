"""A run of an MLflow experiment: parameters, metrics, tags of its lineage, its datasets, its files
as artefacts, and at the end a version of a registered model."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Metric,
    Param,
    RunStatus,
    RunTag,
)
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException

from .config import MLflowConfig
from .sink import Ending, Line, RunFacts, numbers

_ID_TAG = "keepstep.run_id"
_FILES = (
    *("config.yaml", "lineage.json", "audit.jsonl", "summary.json", "events.jsonl"),
    *("ledger.json", "tokenizer.json", "report.html", "openlineage.jsonl"),
)
# Limits of one request of MLflow's protocol.
_MOST_METRICS, _MOST_PARAMS, _MOST_LETTERS = 1000, 100, 500
_HTTP_SECONDS, _HTTP_RETRIES = 20, 2
_STATUS = {
    Ending.finished: RunStatus.FINISHED,
    Ending.preempted: RunStatus.KILLED,
    Ending.failed: RunStatus.FAILED,
}


@final
class MLflowSink:
    """Finds its MLflow run by the tag `keepstep.run_id`, so that every job goes on in the same."""

    replays = False

    def __init__(self, config: MLflowConfig) -> None:
        self._config = config
        self._client: Any = None
        self._facts: RunFacts | None = None
        self._run_id = ""

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        _bound_waiting()
        self._facts = run
        self._client = MlflowClient(self._config.tracking_uri)
        experiment = self._experiment()
        self._run_id = self._find(experiment) or self._create(experiment)
        memory["run_id"] = self._run_id
        self._client.set_terminated(self._run_id, RunStatus.to_string(RunStatus.RUNNING))
        self._describe()

    def metrics(self, lines: Sequence[Line]) -> None:
        found = [
            Metric(name, value, round((line.get("time") or time.time()) * 1000), int(line["step"]))
            for line in lines
            for name, value in numbers(line).items()
        ]
        self._log(found)

    def events(self, lines: Sequence[Line]) -> None:
        self._log(
            [
                Metric("eval_loss", line["loss"], round(line["time"] * 1000), int(line["step"]))
                for line in lines
                if line["kind"] == "eval" and line["loss"] is not None
            ]
        )

    def finish(self, ending: Ending) -> None:
        assert self._facts is not None
        self._describe()  # what the training process found out of its data is there by now
        for name in _FILES:
            if (path := self._facts.folder / name).exists():
                self._client.log_artifact(self._run_id, str(path))
        if ending is Ending.finished and self._config.registered_model:
            self._register(self._config.registered_model)
        self._client.set_terminated(self._run_id, RunStatus.to_string(_STATUS[ending]))

    def close(self) -> None:
        self._client = None

    def _log(self, found: list[Metric]) -> None:
        for begin in range(0, len(found), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=found[begin : begin + _MOST_METRICS])

    def _experiment(self) -> str:
        name = self._config.experiment
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name))

    def _find(self, experiment: str) -> str | None:
        assert self._facts is not None
        rule = f"tags.`{_ID_TAG}` = '{self._facts.run_id}'"
        found = self._client.search_runs([experiment], rule, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, experiment: str) -> str:
        assert self._facts is not None
        tags = {_ID_TAG: self._facts.run_id, "mlflow.source.type": "JOB"}
        made = self._client.create_run(experiment, run_name=self._facts.name, tags=tags)
        return str(made.info.run_id)

    def _describe(self) -> None:
        """Parameters, tags and datasets that are not there yet."""
        assert self._facts is not None
        there = self._client.get_run(self._run_id)
        fresh, tags = [], []
        for key, value in self._facts.settings.items():
            text = str(value)[:_MOST_LETTERS]
            if (known := there.data.params.get(key)) is None:
                fresh.append(Param(key, text))
            elif known != text:  # MLflow keeps the first; a later job's stands beside it
                tags.append(RunTag(f"keepstep.now.{key}", text))
        lineage = _lineage(self._facts.folder)
        tags += [RunTag(key, value[:_MOST_LETTERS]) for key, value in _tags(lineage)]
        for begin in range(0, len(fresh), _MOST_PARAMS):
            self._client.log_batch(self._run_id, params=fresh[begin : begin + _MOST_PARAMS])
        for begin in range(0, len(tags), _MOST_PARAMS):
            self._client.log_batch(self._run_id, tags=tags[begin : begin + _MOST_PARAMS])
        known_sets = {(one.dataset.name, one.dataset.digest) for one in there.inputs.dataset_inputs}
        sets = [one for one in _datasets(lineage) if (one.name, one.digest) not in known_sets]
        if sets:
            self._client.log_inputs(self._run_id, datasets=[DatasetInput(one, []) for one in sets])

    def _register(self, name: str) -> None:
        """The last checkpoint as a model version, whose files say what it is and where it lies."""
        assert self._facts is not None
        folder = self._facts.folder
        summary = json.loads((folder / "summary.json").read_text())
        saved = _last_checkpoint(folder)
        card = {
            "checkpoint": saved,
            "step": summary["steps"],
            "state_digest": summary["state_digest"],
            "run_id": self._facts.run_id,
        }
        if self._is_registered(name, card["state_digest"]):
            return
        self._client.log_dict(self._run_id, card, "model/checkpoint.json")
        if self._config.upload_checkpoint and saved and Path(saved).is_dir():
            self._client.log_artifacts(self._run_id, saved, "model")
        self._client.create_model_version(
            name,
            source=f"{self._client.get_run(self._run_id).info.artifact_uri}/model",
            run_id=self._run_id,
            tags={key: str(value) for key, value in card.items()},
        )

    def _is_registered(self, name: str, state_digest: str) -> bool:
        """Whether that very state is a version already; makes the model where there is none."""
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self._client.search_model_versions(f"name='{name}'")
        return any(one.tags.get("state_digest") == state_digest for one in found)


def _bound_waiting() -> None:
    """MLflow would ask a server that is away for minutes; here somebody else tries again."""
    for variable, value in (
        (MLFLOW_HTTP_REQUEST_TIMEOUT, _HTTP_SECONDS),
        (MLFLOW_HTTP_REQUEST_MAX_RETRIES, _HTTP_RETRIES),
    ):
        if not variable.is_set():
            variable.set(value)


def _lineage(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "lineage.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def _tags(lineage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Facts of the last job, flat; the code's commit under MLflow's own name too."""
    job = (lineage.get("jobs") or [{}])[-1]
    code = job.get("code") or {}
    if code.get("commit"):
        yield "mlflow.source.git.commit", str(code["commit"])
    if job.get("user"):
        yield "mlflow.user", str(job["user"])
    for part in ("code", "versions", "hardware"):
        for key, value in (job.get(part) or {}).items():
            if value is not None:
                yield f"keepstep.{part}.{key}", str(value)
    for key in ("config_digest", "data_digest", "parent", "seed", "world_size"):
        if job.get(key) is not None:
            yield f"keepstep.{key}", str(job[key])


def _datasets(lineage: dict[str, Any]) -> Iterator[Dataset]:
    for job in lineage.get("jobs") or []:
        for one in job.get("datasets") or []:
            yield Dataset(
                name=one["name"],
                digest=one["digest"][:36],  # MLflow's limit
                source_type="keepstep",
                source=json.dumps({"uri": one.get("uri"), "digest": one["digest"]}),
            )


def _last_checkpoint(folder: Path) -> str | None:
    found = None
    for text in (folder / "events.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line.get("kind") == "checkpoint":
            found = str(line["path"])
    return found


SINK = MLflowSink
