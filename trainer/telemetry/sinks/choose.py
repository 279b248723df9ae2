"""A sink's name -> the sink, imported only when it is asked for."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence

from ...errors import ConfigError
from .config import SinkName, SinkSettings
from .sink import Sink

_NEEDS = {
    SinkName.tensorboard: ("tensorboard",),
    SinkName.mlflow: ("mlflow",),
    SinkName.wandb: ("wandb",),
    SinkName.prometheus: ("prometheus_client",),
    SinkName.opentelemetry: ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    SinkName.openlineage: ("openlineage.client",),
}


def check_sinks(names: Sequence[SinkName]) -> None:
    """Refuses sinks whose packages are not installed; imports none of them.

    Raises:
        ConfigError: one sentence with what to install.
    """
    for name in names:
        missing = [package for package in _NEEDS[name] if not _is_installed(package)]
        if missing:
            raise ConfigError(
                f"telemetry.sinks: found {name} without the package {missing[0]}, needed it to be "
                f"installed; run pip install 'keepstep[{name}]', or leave {name} out"
            )


def maker(name: SinkName, settings: SinkSettings) -> Callable[[], Sink]:
    """What makes the sink, in the thread that feeds it."""

    def make() -> Sink:
        module = importlib.import_module(f"{__package__}.{name}")
        sink: Sink = module.SINK(getattr(settings, name))
        return sink

    return make


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package above it
        return False
