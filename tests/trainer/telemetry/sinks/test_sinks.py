"""Each sink as its own readers see it, after failures and over two jobs: every step once."""

import glob
import json
import struct
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families
from support.shown import STEPS, Shown
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from keepstep.trainer.telemetry.audit import AUDIT, broken
from keepstep.trainer.telemetry.lineage import read_lineage

EVERY = list(range(1, STEPS + 1))


@pytest.mark.slow
def test_the_run_itself_is_undisturbed(shown: Shown) -> None:
    assert shown.ran.summary["steps"] == STEPS
    assert not shown.ran.events("sink_failed")
    assert broken(shown.folder / AUDIT) is None


def test_tensorboard_reads_each_step_once(shown: Shown) -> None:
    found = EventAccumulator(str(shown.folder / "tensorboard"))
    found.Reload()
    loss = found.Scalars("loss")
    assert [one.step for one in loss] == EVERY
    wanted = [shown.ran.losses[step] for step in EVERY]
    assert [one.value for one in loss] == pytest.approx(wanted, rel=1e-6)
    assert "event/recovery/text_summary" in found.Tags()["tensors"]


@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy, about how MLflow uses it
def test_mlflow_has_one_run_of_both_jobs_and_its_model(shown: Shown) -> None:
    client = MlflowClient(shown.mlflow)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(one.step for one in history) == EVERY
    assert run.data.params["train.steps"] == str(STEPS)
    assert run.data.tags["keepstep.versions.torch"]
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["shakespeare"]
    names = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "lineage.json", "audit.jsonl", "summary.json", "model"} <= names
    (version,) = client.search_model_versions("name='tiny'")
    assert version.run_id == run.info.run_id
    assert version.tags["state_digest"] == shown.ran.digest


def wandb_records(path: str) -> list[Any]:
    """The records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    raw, at, found, whole = Path(path).read_bytes(), 7, [], b""
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def test_wandb_offline_has_each_step_once_under_one_id(shown: Shown) -> None:
    paths = sorted(glob.glob(str(shown.folder / "wandb" / "offline-run-*" / "*.wandb")))
    assert {Path(path).stem for path in paths} == {f"run-{read_lineage(shown.folder)['run_id']}"}
    steps, losses = Counter[int](), {}
    for record in (one for path in paths for one in wandb_records(path)):
        if record.WhichOneof("record_type") == "history":
            items = {one.key or "/".join(one.nested_key): one for one in record.history.item}
            if "loss" in items:
                step = record.history.step.num
                steps[step] += 1
                losses[step] = json.loads(items["loss"].value_json)
    assert steps == Counter(EVERY)
    assert losses == shown.ran.losses


def test_prometheus_scrapes_gauges_and_counters_over_both_jobs(shown: Shown) -> None:
    families = {one.name: one for one in text_string_to_metric_families(shown.scrapes[-1])}
    value = {name: one.samples[0].value for name, one in families.items() if one.samples}
    assert families["keepstep_steps"].type == "counter"
    assert value["keepstep_step"] == value["keepstep_steps"] >= 14
    assert value["keepstep_loss"] == shown.ran.losses[int(value["keepstep_step"])]
    assert value["keepstep_failures"] == value["keepstep_recoveries"] == 1
    assert value["keepstep_checkpoints"] >= 4
    (info,) = families["keepstep_run_info"].samples
    assert info.labels["run_id"] == read_lineage(shown.folder)["run_id"]
    accounts = {one.labels["account"] for one in families["keepstep_wall_seconds"].samples}
    assert {"step", "save", "restore", "wait"} <= accounts
    place = json.loads((shown.folder / "sinks" / "prometheus.json").read_text())
    assert place["memory"]["url"].startswith("http://127.0.0.1:")


def spans(shown: Shown) -> list[dict[str, Any]]:
    """By id, since what was sent again after a kill is the same span."""
    lines = map(json.loads, (shown.folder / "traces.jsonl").read_text().splitlines())
    return list({one["context"]["span_id"]: one for one in lines}.values())


def test_traces_nest_and_cover_every_step_once(shown: Shown) -> None:
    found = spans(shown)
    names = Counter(one["name"] for one in found)
    assert names["recovery"] == names["failure"] == names["job"] == 1
    assert names["generation"] == 3
    assert len({one["context"]["trace_id"] for one in found}) == 1
    groups = sorted(
        (one["attributes"]["keepstep.step.first"], one["attributes"]["keepstep.step.last"])
        for one in found
        if one["name"] == "steps"
    )
    assert [step for first, last in groups for step in range(first, last + 1)] == EVERY
    generations = {one["context"]["span_id"] for one in found if one["name"] == "generation"}
    assert all(one["parent_id"] in generations for one in found if one["name"] == "checkpoint")
    assert all(one["start_time"] <= one["end_time"] for one in found)


def test_openlineage_says_how_each_job_ended(shown: Shown) -> None:
    text = (shown.folder / "openlineage.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    told = {(one["run"]["runId"], one["eventType"]): one for one in events}
    events = list(told.values())
    kinds = [one["eventType"] for one in events]
    assert kinds == ["START", "FAIL", "START", "COMPLETE"]  # the first was killed without a word
    ids = [uuid.UUID(one["run"]["runId"]) for one in events]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    last = events[-1]
    assert last["inputs"][0]["facets"]["version"]["datasetVersion"]
    assert any(one["name"].endswith("/checkpoints") for one in last["outputs"])
    parent = last["run"]["facets"]["parent"]["run"]["runId"]
    assert uuid.UUID(parent).hex == read_lineage(shown.folder)["run_id"]
