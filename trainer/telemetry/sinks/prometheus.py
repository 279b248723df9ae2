"""An endpoint that Prometheus scrapes: gauges of the last step, counters since the run's begin,
over all its jobs. It listens at the loopback unless told otherwise."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from .config import PrometheusConfig
from .sink import Ending, Line, RunFacts, numbers

_GAUGES = {
    "loss": "Mean loss of a token (or sample) in the last step.",
    "grad_norm": "Global gradient norm of the last step, before clipping.",
    "lr": "Learning rate of the last step.",
    "tokens_per_second": "Tokens of the last step over its seconds, whole world.",
    "mfu": "Model FLOPs utilisation of the last step, 0 to 1.",
    "data_seconds": "Seconds that the last step waited for data.",
    "snapshot_seconds": "Seconds that snapshots and saves held up the last step.",
}
_COUNTED = {
    "failure": "Workers that died or failed.",
    "hang": "Workers that hung.",
    "straggler": "Ranks found slower than others with the same work.",
    "recovery": "Generations that went on after a failure.",
    "checkpoint": "Checkpoints committed.",
    "save_failed": "Saves that failed.",
    "skip": "Steps that were skipped.",
    "rollback": "Rollbacks to an earlier snapshot.",
    "bad_record": "Records that could not be read.",
}
_BUCKETS = tuple(10 ** (power / 4) for power in range(-12, 10))


@final
class PrometheusSink:
    """Replays the run's files at each start, so that counters go on where they were."""

    replays = True

    def __init__(self, config: PrometheusConfig) -> None:
        self._config = config
        self._server: WSGIServer | None = None
        self._tokens = 0
        self._registry = registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(f"keepstep_{name}", words, registry=registry)
            for name, words in _GAUGES.items()
        }
        self._step = Gauge(
            "keepstep_step", "Optimizer steps of the run's state.", registry=registry
        )
        self._steps = Counter("keepstep_steps", "Distinct optimizer steps.", registry=registry)
        self._all_tokens = Counter("keepstep_tokens", "Tokens trained on.", registry=registry)
        self._counters = {
            kind: Counter(f"keepstep_{_plural(kind)}", words, registry=registry)
            for kind, words in _COUNTED.items()
        }
        self._eval = Gauge("keepstep_eval_loss", "Last held-out loss.", registry=registry)
        self._generation = Gauge("keepstep_generation", "Lives of the group.", registry=registry)
        self._saved = Gauge(
            "keepstep_checkpoint_timestamp_seconds", "Unix time of the last.", registry=registry
        )
        self._seconds = Histogram(
            "keepstep_step_seconds", "Seconds of a step.", buckets=_BUCKETS, registry=registry
        )
        self._info = Info("keepstep_run", "Which run this is.", registry=registry)

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        self._info.info({"name": run.name, "run_id": run.run_id})
        self._registry.register(Ledger(run.folder))
        host, port = self._config.host, self._config.port
        self._server, _ = start_http_server(port, host, self._registry)
        memory["url"] = f"http://{host}:{self._server.server_port}/metrics"

    def metrics(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._steps.inc()
            self._seconds.observe(line["step_seconds"])
            self._all_tokens.inc(max(0, line["tokens"] - self._tokens))
            self._tokens = max(self._tokens, line["tokens"])
        last = numbers(lines[-1])
        self._step.set(lines[-1]["step"])
        for name, gauge in self._gauges.items():
            if name in last:
                gauge.set(last[name])

    def events(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if (counter := self._counters.get(line["kind"])) is not None:
                counter.inc()
            self._generation.set(line["generation"])
            if line["kind"] == "eval":
                self._eval.set(line["loss"])
            elif line["kind"] == "checkpoint":
                self._saved.set(line["time"])

    def finish(self, ending: Ending) -> None:
        """Nothing: what is scraped until the process ends is the last state."""

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@final
class Ledger(Collector):
    """The accounts of ledger.json as a counter with a label, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.json"

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "keepstep_wall_seconds",
            "Seconds of the run by what they went into.",
            labels=["account"],
        )
        with contextlib.suppress(OSError, ValueError, KeyError):
            for account, seconds in json.loads(self._path.read_text())["seconds"].items():
                family.add_metric([account], seconds)
        yield family


def _plural(kind: str) -> str:
    return {"recovery": "recoveries", "save_failed": "failed_saves"}.get(kind, f"{kind}s")


SINK = PrometheusSink
