"""The process around the sinks: asked for, refused, killed, hung, and never in the way of a run."""

import ast
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.job import Job, Ran, overrides, start_job, tiny

from keepstep.trainer import ConfigError
from keepstep.trainer.config import TelemetryConfig
from keepstep.trainer.telemetry.sinks import choose
from keepstep.trainer.telemetry.sinks.choose import check_sinks
from keepstep.trainer.telemetry.sinks.config import SinkName
from keepstep.trainer.telemetry.sinks.opentelemetry import OpenTelemetrySink
from keepstep.trainer.telemetry.sinks.process import SinkProcess
from keepstep.trainer.telemetry.sinks.sink import RunFacts

ROOT = Path(__file__).parents[4]
SLOW = tiny(sleep_seconds=0.01)


def test_a_sink_whose_package_is_missing_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(choose._NEEDS, SinkName.mlflow, ("mlflow_that_is_not_there.client",))
    with pytest.raises(ConfigError, match=r"run pip install 'keepstep\[mlflow\]', or leave mlflow"):
        check_sinks([SinkName.prometheus, SinkName.mlflow])


def test_every_sink_can_be_chosen() -> None:
    assert set(choose._NEEDS) == set(SinkName)
    check_sinks(list(SinkName))


def test_without_sinks_nothing_is_forked() -> None:
    assert SinkProcess.start(TelemetryConfig(), speaks=False) is None


def test_only_the_sinks_own_files_import_their_packages() -> None:
    packages = {word.split(".")[0] for words in choose._NEEDS.values() for word in words}
    own = {f"{name}.py" for name in SinkName}
    for path in (ROOT / "trainer").rglob("*.py"):
        found = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        }
        is_own = path.parent.name == "sinks" and path.name in own
        assert is_own or not packages & {name.split(".")[0] for name in found}, path


def feeder(job: Job) -> int | None:
    """The process that feeds the sinks, which writes elsewhere than the job."""
    keepers = {pid for pid in job.processes() if _name(pid) == "keepstep-sinks"}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _name(int(entry.name)) == "keepstep-feed":
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) in keepers:
                return int(entry.name)
    return None


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.mark.slow
def test_a_feeder_that_is_killed_is_begun_again_and_the_run_never_hears_of_it(
    tmp_path: Path,
) -> None:
    ran = Ran(tmp_path / "run")
    sinks = ("telemetry.sinks=[openlineage,opentelemetry]", "telemetry.feed.grace_seconds=60")
    more = (*sinks, "telemetry.feed.every_seconds=0.05")
    words = overrides(ran.folder, *more, "telemetry.opentelemetry.steps_per_span=1", steps=40)
    with start_job(1, words, folder=tmp_path, recipe=SLOW) as job:
        job.until(lambda: len(ran.losses) >= 5, 60.0, "step 5")
        job.until(lambda: feeder(job), 60.0, "a feeder")
        os.kill(feeder(job) or 0, signal.SIGKILL)
        assert job.wait(120.0) == [0], job.errors(0)
    lines = [json.loads(line) for line in (ran.folder / "traces.jsonl").read_text().splitlines()]
    steps = {one["attributes"]["keepstep.step.last"] for one in lines if one["name"] == "steps"}
    assert steps == set(range(1, 41))
    assert not ran.events("failure", "recovery", "sink_failed")


@pytest.mark.slow
def test_a_sink_that_cannot_be_reached_costs_the_run_its_grace_and_no_more(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "run")
    url = "telemetry.openlineage.url=http://127.0.0.1:9"  # nobody listens there
    more = ("telemetry.sinks=[openlineage]", url, "telemetry.feed.grace_seconds=0.5")
    with start_job(1, overrides(ran.folder, *more), folder=tmp_path) as job:
        assert job.wait(60.0) == [0], job.errors(0)
        assert "openlineage: not all was delivered within" in job.output(0)
    (failed,) = ran.events("sink_failed")
    assert failed["sink"] == "openlineage"
    assert ran.summary["steps"] == 10


@pytest.mark.slow
def test_a_stop_signal_ends_the_wait_and_not_the_exit_code(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "run")
    url = "telemetry.openlineage.url=http://127.0.0.1:9"
    more = ("telemetry.sinks=[openlineage]", url, "telemetry.feed.grace_seconds=600")
    with start_job(1, overrides(ran.folder, *more), folder=tmp_path) as job:
        job.until(lambda: ran.events("sink_failed") and ran.events("finish"), 60.0, "the end")
        time.sleep(1.0)
        os.kill(job.guardians[0], signal.SIGTERM)
        assert job.wait(30.0) == [0], job.errors(0)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector of OTLP over HTTP that is away for its first two requests."""
    taken: list[ExportTraceServiceRequest] = []
    refusals = iter([400, 400])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if (code := next(refusals, 200)) == 200:
                request = ExportTraceServiceRequest()
                request.ParseFromString(body)
                taken.append(request)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", taken
        server.shutdown()
        thread.join()


def test_a_collector_gets_the_spans_or_the_sink_says_that_it_does_not(
    tmp_path: Path, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    url, taken = collector
    config = TelemetryConfig().opentelemetry
    config.endpoint, config.steps_per_span = url, 2
    facts = RunFacts(folder=tmp_path, name="run", run_id="a" * 32)
    now = time.time()
    lines = [
        {"step": n, "loss": 1.0, "step_seconds": 0.1, "tokens_per_second": 10.0, "time": now + n}
        for n in (1, 2)
    ]
    for has_failed in (True, True, False):
        sink = OpenTelemetrySink(config)
        sink.open(facts, {}, 0)
        if has_failed:
            with pytest.raises(ConnectionError, match="took none of 1 spans"):
                sink.metrics(lines)
        else:
            sink.metrics(lines)
        sink.close()
    (request,) = taken
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert span.name == "steps"
    assert {one.key for one in span.attributes} >= {"keepstep.step.first", "keepstep.step.last"}
