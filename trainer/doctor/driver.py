"""Who asks the GPUs: NVML where `nvidia-ml-py` is installed, else `nvidia-smi` where that is, else
nobody. Neither makes a CUDA context, so that this process may still fork."""

import contextlib
import csv
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

from .finding import MIB
from .gpu import Gpu

_SECONDS = 15.0
_FIELDS = {
    "index": "index",
    "name": "name",
    "memory_total": "memory.total",
    "memory_used": "memory.used",
    "ecc": "ecc.mode.current",
    "errors": "ecc.errors.uncorrected.volatile.total",
    "clock": "clocks.sm",
    "clock_most": "clocks.max.sm",
    "slowed": "clocks_event_reasons.active",
    "temperature": "temperature.gpu",
    "pcie_width": "pcie.link.width.current",
    "pcie_width_most": "pcie.link.width.max",
    "driver": "driver_version",
}
_LINKS = 18
Answer = TypeVar("Answer")


def read_gpus() -> tuple[list[Gpu], str | None]:
    """Every GPU of this node and the driver's version; none and None where there is no driver."""
    with contextlib.suppress(ImportError):
        return _by_nvml()
    return _by_command()


def _by_nvml() -> tuple[list[Gpu], str | None]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or none that may be asked
        return [], None
    try:
        count = pynvml.nvmlDeviceGetCount()
        gpus = [_gpu(pynvml, index) for index in range(count)]
        return gpus, str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)

    def ask(question: Callable[..., Answer], *more: Any) -> Answer | None:
        """None where this GPU, or this driver, does not know."""
        try:
            return question(handle, *more)
        except nvml.NVMLError:
            return None

    ecc: Any = ask(nvml.nvmlDeviceGetEccMode)
    remapped: Any = ask(nvml.nvmlDeviceGetRemappedRows)
    up = [ask(nvml.nvmlDeviceGetNvLinkState, link) for link in range(_LINKS)]
    links = [state for state in up if state is not None]
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        ecc=bool(ecc[0]) if ecc else None,
        errors=ask(
            nvml.nvmlDeviceGetTotalEccErrors,
            nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            nvml.NVML_VOLATILE_ECC,
        ),
        awaits_repair=bool(remapped[2]) if remapped else None,
        clock=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        clock_most=ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        slowed=int(ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0),
        temperature=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        pcie_width=ask(nvml.nvmlDeviceGetCurrPcieLinkWidth),
        pcie_width_most=ask(nvml.nvmlDeviceGetMaxPcieLinkWidth),
        links=sum(map(bool, links)) if links else None,
        links_most=len(links) or None,
    )


def _by_command() -> tuple[list[Gpu], str | None]:
    fields = ",".join(_FIELDS.values())
    for query in (fields, fields.replace("event_reasons", "throttle_reasons")):  # before R535
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return [], None
        if done.returncode == 0:
            return parse_answer(done.stdout)
    return [], None


def parse_answer(text: str) -> tuple[list[Gpu], str | None]:
    """What nvidia-smi answered to the fields above, as CSV without heads and units."""
    gpus, driver = [], None
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        found = dict(zip(_FIELDS, row, strict=True))
        driver = found["driver"]
        gpus.append(
            Gpu(
                index=int(found["index"]),
                name=found["name"],
                memory_total=int(found["memory_total"]) * MIB,
                memory_used=int(found["memory_used"]) * MIB,
                ecc={"Enabled": True, "Disabled": False}.get(found["ecc"]),
                errors=_number(found["errors"]),
                clock=_number(found["clock"]),
                clock_most=_number(found["clock_most"]),
                slowed=_number(found["slowed"]) or 0,
                temperature=_number(found["temperature"]),
                pcie_width=_number(found["pcie_width"]),
                pcie_width_most=_number(found["pcie_width_most"]),
            )
        )
    return gpus, driver


def _number(word: str) -> int | None:
    """Decimal or 0x...; None for [N/A] and its like."""
    try:
        return int(word, 0)
    except ValueError:
        return None
