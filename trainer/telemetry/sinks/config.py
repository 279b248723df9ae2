"""Which sinks a run has, and where each of them lives."""

from dataclasses import dataclass, field
from enum import StrEnum

from ...require import require


class SinkName(StrEnum):
    """A place that shows runs."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"
    prometheus = "prometheus"
    opentelemetry = "opentelemetry"
    openlineage = "openlineage"


class WandbMode(StrEnum):
    """Whether W&B is reached while the run goes on."""

    online = "online"
    offline = "offline"


@dataclass(kw_only=True, slots=True)
class TensorBoardConfig:
    """Event files, which `tensorboard --logdir` shows."""

    dir: str | None = None
    """Folder of the event files; null: `tensorboard` in the run's folder."""


@dataclass(kw_only=True, slots=True)
class MLflowConfig:
    """A run of an MLflow experiment; credentials are MLflow's own (its environment)."""

    tracking_uri: str | None = None
    """Server, sqlite:/// or folder; null: what MLflow finds (MLFLOW_TRACKING_URI)."""
    experiment: str = "keepstep"
    """Name of the experiment, made where there is none."""
    registered_model: str | None = None
    """Name under which a finished run's last checkpoint becomes a model version; null: none."""
    upload_checkpoint: bool = False
    """Whether that checkpoint's files become artefacts too, where they lie in a local folder."""


@dataclass(kw_only=True, slots=True)
class WandbConfig:
    """A run of a W&B project; its key is W&B's own (`wandb login`)."""

    project: str = "keepstep"
    """Name of the project."""
    entity: str | None = None
    """User or team; null: the key's own."""
    mode: WandbMode = WandbMode.online
    """online, or offline: a folder `wandb` in the run's, for `wandb sync`."""


@dataclass(kw_only=True, slots=True)
class PrometheusConfig:
    """An endpoint /metrics while the run goes on."""

    host: str = "127.0.0.1"
    """Address it listens at: anyone who reaches it may read; 0.0.0.0 for all of the machine's."""
    port: int = 9464
    """Port, 0 to 65535; 0: a free one, named in `sinks/prometheus.json` of the run's folder."""

    def __post_init__(self) -> None:
        holds = 0 <= self.port <= 65535
        require(holds, "telemetry.prometheus.port", self.port, "0 to 65535", "set 0 for a free one")


@dataclass(kw_only=True, slots=True)
class OpenTelemetryConfig:
    """Traces: spans of jobs, generations, groups of steps, saves and recoveries."""

    endpoint: str | None = None
    """URL that takes OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; null: a file."""
    file: str | None = None
    """File that gets a span a line as JSON; null: `traces.jsonl` in the run's folder."""
    steps_per_span: int = 50
    """Steps that one span stands for."""

    def __post_init__(self) -> None:
        found = self.steps_per_span
        require(
            found >= 1,
            "telemetry.opentelemetry.steps_per_span",
            found,
            "1 or more",
            "set 1 for all",
        )


@dataclass(kw_only=True, slots=True)
class OpenLineageConfig:
    """START, COMPLETE, ABORT and FAIL of each job with its datasets, as OpenLineage events."""

    url: str | None = None
    """Server that takes them at /api/v1/lineage; null: `openlineage.jsonl` in the run's folder."""
    namespace: str = "keepstep"
    """Namespace of the job, as the lineage server groups jobs."""


@dataclass(kw_only=True, slots=True)
class SinksConfig:
    """How sinks are fed, whatever they are."""

    every_seconds: float = 1.0
    """Seconds between looks at the run's files."""
    grace_seconds: float = 10.0
    """Seconds that the end of a run waits for sinks that are behind; what is left then is sent by
    the run's next job, or by `keepstep publish`."""

    def __post_init__(self) -> None:
        found = self.every_seconds
        key, remedy = "telemetry.feed.every_seconds", "set for example 1"
        require(found > 0, key, found, "more than 0", remedy)
        found = self.grace_seconds
        require(found >= 0, "telemetry.feed.grace_seconds", found, "0 or more", "set 0 to not wait")


@dataclass(kw_only=True, slots=True)
class SinkSettings:
    """The part of `telemetry` that sinks are made from."""

    sinks: list[SinkName] = field(default_factory=list)
    """Where the run is shown beside its own files."""
    feed: SinksConfig = field(default_factory=SinksConfig)
    tensorboard: TensorBoardConfig = field(default_factory=TensorBoardConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    prometheus: PrometheusConfig = field(default_factory=PrometheusConfig)
    opentelemetry: OpenTelemetryConfig = field(default_factory=OpenTelemetryConfig)
    openlineage: OpenLineageConfig = field(default_factory=OpenLineageConfig)
