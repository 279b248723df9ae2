"""Traces of a run: a trace a run, a span a job, generation, group of steps, save, evaluation and
recovery. Ids are digests of what a span stands for: one that is sent twice is one span.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags

from .config import OpenTelemetryConfig
from .sink import Ending, Line, RunFacts, numbers

_EXPORT_SECONDS = 10
_MOMENTS = ("rollback", "skip", "hang", "failure", "preemption", "outage", "bad_record")


class _Export(Protocol):
    def __call__(self, spans: Sequence[ReadableSpan]) -> None: ...


@final
class OpenTelemetrySink:
    """Keeps what is open (job, generation, group) in its memory, so that another process ends it.

    Times are those of the lines; a step's line without one gets the end of its group's last event.
    """

    replays = False

    def __init__(self, config: OpenTelemetryConfig) -> None:
        self._config = config
        self._open: dict[str, Any] = {}
        self._export: _Export = _nowhere
        self._exporter: SpanExporter | None = None
        self._ids = _Ids()
        self._ended = _Ended()
        self._tracer: trace.Tracer | None = None

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        self._open = memory
        memory.setdefault("generation", None)
        memory.setdefault("group", None)
        about = {
            "service.name": "keepstep",
            "service.version": version("keepstep"),
            "service.instance.id": run.run_id,
            "keepstep.run.name": run.name,
        }
        provider = TracerProvider(
            resource=Resource.create(about), id_generator=self._ids, shutdown_on_exit=False
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("keepstep")
        self._ids.trace_id = _digest(16, run.run_id)
        if self._config.endpoint is None:
            path = Path(self._config.file) if self._config.file else run.folder / "traces.jsonl"
            self._export = _ToFile(path)
        else:
            self._exporter = OTLPSpanExporter(self._config.endpoint, timeout=_EXPORT_SECONDS)
            self._export = _ToCollector(self._exporter)

    def metrics(self, lines: Sequence[Line]) -> None:
        for line in lines:
            end = float(line.get("time") or self._open.get("clock", 0.0) + line["step_seconds"])
            group = self._open["group"]
            if group is None:
                begin = end - line["step_seconds"]
                group = {"first": line["step"], "begin": begin, "tokens": 0, "loss": 0.0, "n": 0}
                self._open["group"] = group
            found = numbers(line)
            group |= {
                "last": line["step"],
                "end": end,
                "tokens": group["tokens"] + found["tokens_per_second"] * line["step_seconds"],
                "loss": group["loss"] + found.get("loss", 0.0),
                "n": group["n"] + 1,
            }
            self._open["clock"] = end
            if line["step"] % self._config.steps_per_span == 0:
                self._end_group()
        self._send()

    def events(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._event(line)
        self._send()

    def finish(self, ending: Ending) -> None:
        now = self._open.get("clock", 0.0)
        self._end_group()
        self._end_generation(now)
        if (job := self._open.get("job")) is not None:
            self._span("job", job, job, now, {"keepstep.ending": ending.value}, parent=None)
        self._send()

    def close(self) -> None:
        if self._exporter is not None:
            self._exporter.shutdown()
            self._exporter = None

    def _event(self, line: Line) -> None:
        at, kind = float(line["time"]), line["kind"]
        self._open["clock"] = max(at, self._open.get("clock", 0.0))
        facts = {f"keepstep.{key}": value for key, value in _plain(line).items()}
        if kind == "start":
            self._end_group()
            self._end_generation(at)
            if line["generation"] == 0 or self._open.get("job") is None:
                self._open["job"] = at
            self._open["generation"] = {"begin": at, "number": line["generation"]}
        elif kind in ("checkpoint", "promotion") and "seconds" in line:
            self._span(kind, line["step"], at - line["seconds"], at, facts)
        elif kind == "recovery":
            self._span(kind, line["generation"], at - line["seconds"], at, facts)
        elif kind in _MOMENTS:
            self._span(kind, at, at, at, facts, has_failed=kind in ("failure", "hang"))

    def _end_group(self) -> None:
        group, self._open["group"] = self._open["group"], None
        if group is not None:
            facts = {
                "keepstep.step.first": group["first"],
                "keepstep.step.last": group["last"],
                "keepstep.tokens": round(group["tokens"]),
                "keepstep.loss.mean": group["loss"] / group["n"],
            }
            self._span("steps", group["first"], group["begin"], group["end"], facts)

    def _end_generation(self, at: float) -> None:
        found, self._open["generation"] = self._open["generation"], None
        if found is not None:
            facts = {"keepstep.generation": found["number"]}
            key = f"generation {found['begin']}"
            job = f"job {self._open['job']}"
            self._span("generation", found["begin"], found["begin"], at, facts, parent=job, key=key)

    def _span(
        self,
        name: str,
        mark: object,
        begin: float,
        end: float,
        facts: Mapping[str, Any],
        *,
        parent: str | None = "generation",
        key: str | None = None,
        has_failed: bool = False,
    ) -> None:
        """One span that is over; `mark` tells it from others of its name."""
        assert self._tracer is not None
        if parent == "generation":
            found = self._open["generation"]
            parent = f"generation {found['begin']}" if found else None
        self._ids.span_id = _digest(8, self._ids.trace_id, key or f"{name} {mark}")
        context = self._context(parent) if parent else None
        span = self._tracer.start_span(
            name, context, attributes=dict(facts), start_time=round(begin * 1e9)
        )
        if has_failed:
            span.set_status(StatusCode.ERROR)
        span.end(round(max(begin, end) * 1e9))

    def _context(self, parent: str) -> Any:
        trace_id = self._ids.trace_id
        span_id = _digest(8, trace_id, parent)
        known = SpanContext(trace_id, span_id, False, TraceFlags(TraceFlags.SAMPLED))
        return trace.set_span_in_context(NonRecordingSpan(known))

    def _send(self) -> None:
        if self._ended.spans:
            self._export(self._ended.spans)
            self._ended.spans = []


@final
class _Ids(IdGenerator):
    """Gives the ids that were set."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


@final
class _Ended(SpanProcessor):
    """Holds spans that have ended until they are sent: the SDK's own processors would drop them
    where the collector is away."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class _ToFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, spans: Sequence[ReadableSpan]) -> None:
        with self._path.open("a") as file:
            file.writelines(f"{span.to_json(indent=None)}\n" for span in spans)


class _ToCollector:
    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def __call__(self, spans: Sequence[ReadableSpan]) -> None:
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise ConnectionError(f"the collector took none of {len(spans)} spans")


def _nowhere(spans: Sequence[ReadableSpan]) -> None:
    raise AssertionError("no exporter is open")


def _digest(num_bytes: int, *parts: object) -> int:
    """A number that is not 0, as ids must be."""
    raw = sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(raw[:num_bytes], "big") or 1


def _plain(line: Line) -> dict[str, Any]:
    """A line's fields as attributes may be."""
    return {
        key: value if isinstance(value, str | bool | int | float) else json.dumps(value)
        for key, value in line.items()
        if value is not None and key not in ("time", "kind")
    }


SINK = OpenTelemetrySink
