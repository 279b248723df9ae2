"""OpenLineage run events: START as a job of the run begins, COMPLETE, ABORT or FAIL as it ends,
with the datasets that it read and the checkpoints that it wrote."""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    error_message_run,
    parent_run,
    processing_engine_run,
    source_code_location_job,
)
from openlineage.client.serde import Serde
from openlineage.client.transport.http import HttpConfig, HttpTransport

from .config import OpenLineageConfig
from .sink import Ending, Line, RunFacts

_PRODUCER = "https://pypi.org/project/keepstep"
_HTTP_SECONDS = 10.0
_STATES = {
    Ending.finished: RunState.COMPLETE,
    Ending.preempted: RunState.ABORT,
    Ending.failed: RunState.FAIL,
}


@final
class OpenLineageSink:
    """Its run is one job of ours; a job that was killed without a word is said to have failed when
    the next one begins."""

    replays = False

    def __init__(self, config: OpenLineageConfig) -> None:
        self._config = config
        self._facts: RunFacts | None = None
        self._memory: dict[str, Any] = {}
        self._transport: HttpTransport | None = None

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        self._facts, self._memory = run, memory
        memory.setdefault("begun", None)
        memory.setdefault("outputs", [])
        memory.setdefault("reason", None)
        if self._config.url is not None:
            self._transport = HttpTransport(
                HttpConfig(url=self._config.url, timeout=_HTTP_SECONDS, retry={"total": 0})
            )

    def metrics(self, lines: Sequence[Line]) -> None:
        """Nothing: it is told what was made of what, and not how well."""

    def events(self, lines: Sequence[Line]) -> None:
        for line in lines:
            kind, at = line["kind"], float(line["time"])
            if kind == "start" and line["generation"] == 0:
                if self._memory["begun"] is not None:
                    self._end(RunState.FAIL, at)
                self._memory.update(begun=at, outputs=[], reason=None)
                self._emit(RunState.START, at)
            elif kind == "checkpoint":
                self._memory["outputs"] = [*self._memory["outputs"], line["path"]]
            elif kind in ("failure", "hang"):
                self._memory["reason"] = line.get("reason")
            self._memory["last"] = at

    def finish(self, ending: Ending) -> None:
        if self._memory["begun"] is not None:
            self._end(_STATES[ending], self._memory["last"])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _end(self, state: RunState, at: float) -> None:
        self._emit(state, at)
        self._memory.update(begun=None, outputs=[])

    def _emit(self, state: RunState, at: float) -> None:
        event = self._event(state, at)
        if self._transport is not None:
            self._transport.emit(event).raise_for_status()
            return
        assert self._facts is not None
        with (self._facts.folder / "openlineage.jsonl").open("a") as file:
            file.write(f"{Serde.to_json(event)}\n")

    def _event(self, state: RunState, at: float) -> RunEvent:
        assert self._facts is not None
        job = _last_job(self._facts.folder)
        facets: dict[str, Any] = {
            "parent": parent_run.ParentRunFacet(
                run=parent_run.Run(runId=str(uuid.UUID(self._facts.run_id))),
                job=parent_run.Job(self._config.namespace, self._facts.name),
                producer=_PRODUCER,
            ),
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                version=str(job.get("versions", {}).get("torch", "unknown")),
                name="torch",
                openlineageAdapterVersion=str(job.get("versions", {}).get("keepstep", "unknown")),
                producer=_PRODUCER,
            ),
        }
        if state is RunState.FAIL:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=self._memory["reason"] or "ended without a word",
                programmingLanguage="python",
                producer=_PRODUCER,
            )
        return RunEvent(
            eventType=state,
            eventTime=datetime.fromtimestamp(at, UTC).isoformat(),
            run=Run(runId=self._job_id(), facets=facets),
            job=Job(self._config.namespace, f"{self._facts.name}.train", facets=_code(job)),
            producer=_PRODUCER,
            inputs=[_input(one) for one in job.get("datasets") or []],
            outputs=[_output(path) for path in self._memory["outputs"]],
        )

    def _job_id(self) -> str:
        assert self._facts is not None
        return str(uuid.uuid5(uuid.UUID(self._facts.run_id), f"job {self._memory['begun']}"))


def _code(job: dict[str, Any]) -> dict[str, Any]:
    code = job.get("code") or {}
    if not code.get("commit"):
        return {}
    where = str(code.get("remote") or "file:.")
    return {
        "sourceCodeLocation": source_code_location_job.SourceCodeLocationJobFacet(
            type="git", url=where, version=code["commit"], producer=_PRODUCER
        )
    }


def _input(one: dict[str, Any]) -> InputDataset:
    facets: dict[str, Any] = {"version": _version(one["digest"])}
    namespace, name = _named(str(one.get("uri") or one["name"]))
    return InputDataset(namespace, name, facets=facets)


def _output(path: str) -> OutputDataset:
    facets: dict[str, Any] = {"version": _version(path.rpartition("/")[2])}
    namespace, name = _named(path.rpartition("/")[0] or path)
    return OutputDataset(namespace, name, facets=facets)


def _version(digest: str) -> Any:
    return dataset_version_dataset.DatasetVersionDatasetFacet(digest, producer=_PRODUCER)


def _named(address: str) -> tuple[str, str]:
    """A place as OpenLineage names it: s3://bucket and a key, file and an absolute path."""
    scheme, found, rest = address.partition("://")
    if not found or scheme == "file":
        return "file", str(Path(rest if found else address).absolute())
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", path or "/"


def _last_job(folder: Path) -> dict[str, Any]:
    try:
        jobs = json.loads((folder / "lineage.json").read_text())["jobs"]
        found: dict[str, Any] = jobs[-1]
    except (OSError, ValueError, KeyError, IndexError):
        return {}
    return found


SINK = OpenLineageSink
