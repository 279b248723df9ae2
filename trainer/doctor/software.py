"""Versions of what a run is made of, beside those that keepstep asks for."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from packaging.requirements import Requirement

from .finding import Finding, Level, judged

_AREA = "software"


@dataclass(frozen=True, kw_only=True, slots=True)
class Software:
    """What is installed here."""

    python: str
    torch: str
    cuda: str | None
    """That torch was built for; None: a build for the CPU."""
    nccl: str | None
    driver: str | None
    """Of the GPUs; None where none was found."""
    requirements: tuple[str, ...]
    """Of keepstep, as its package says, extras left out."""
    installed: Mapping[str, str]
    """Version of each required package that is installed."""


def read_software(*, driver: str | None) -> Software:
    """Asks packages for their versions; touches no device."""
    try:
        said = importlib.metadata.requires("keepstep") or ()
    except importlib.metadata.PackageNotFoundError:
        said = ()
    requirements = tuple(one for one in said if "extra ==" not in one)
    has_nccl = torch.version.cuda is not None and torch.distributed.is_nccl_available()
    nccl = torch.cuda.nccl.version() if has_nccl else ()
    return Software(
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        nccl=".".join(map(str, nccl)) if nccl else None,
        driver=driver,
        requirements=requirements,
        installed=_versions(requirements),
    )


def _versions(requirements: Sequence[str]) -> dict[str, str]:
    found = {}
    for one in requirements:
        name = Requirement(one).name
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def judge_software(found: Software) -> list[Finding]:
    """The interpreter, the packages that keepstep needs, and torch's build for the device."""
    return [_python(found), _packages(found), _torch(found)]


def _python(found: Software) -> Finding:
    is_old = tuple(map(int, found.python.split(".")[:2])) < (3, 11)
    return judged(
        *(_AREA, "Python", found.python),
        worst=Level.problem if is_old else None,
        needed="3.11 or newer",
        remedy="make the virtual environment with a newer Python",
    )


def _packages(found: Software) -> Finding:
    wrong = []
    for one in map(Requirement, found.requirements):
        version = found.installed.get(one.name)
        if version is None or not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version or 'missing'} ({one.specifier})")
    if not found.requirements:
        return judged(
            *(_AREA, "packages", "keepstep is not installed, only imported"),
            worst=Level.warning,
            needed="its package, which names the versions it was tested on",
            remedy="pip install -c constraints.txt -e .",
        )
    return judged(
        *(_AREA, "packages", "; ".join(wrong) or f"{len(found.requirements)} as required"),
        worst=Level.problem if wrong else None,
        needed="the versions that keepstep's package names",
        remedy="pip install -c constraints.txt --upgrade keepstep",
    )


def _torch(found: Software) -> Finding:
    build = f"CUDA {found.cuda}, NCCL {found.nccl}" if found.cuda else "for the CPU, gloo"
    words = f"{found.torch}, {build}" + (f", driver {found.driver}" if found.driver else "")
    is_blind = found.driver is not None and found.cuda is None
    has_no_nccl = found.cuda is not None and found.nccl is None
    return judged(
        *(_AREA, "torch", words),
        worst=Level.problem if is_blind or has_no_nccl else None,
        needed="a build with CUDA and NCCL where there are GPUs" if found.driver else "",
        remedy="install torch's build for your CUDA, see pytorch.org",
    )
