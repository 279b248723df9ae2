"""`keepstep lineage`, `audit` and `reproduce`: what made a checkpoint, whether the record of it is
whole, and how to make it again."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from ...checkpoint import CheckpointError, committed, read_manifest
from ..errors import ConfigError
from ..provenance import ancestry
from ..recovery.verdict import EXIT_FAILED
from ..telemetry.audit import AUDIT, broken, lines
from .checkpoints.places import Chosen, One, choose, locate

_SHOWN = 12
# Of a job's overrides, those that say where it ran and not what it computed.
_OF_PLACE = ("run.dir", "run.name", "run.resume", "run.on_change", "checkpoint.", "telemetry.")
Segment = dict[str, Any]


def lineage_command(
    one: One,
    as_json: Annotated[bool, typer.Option("--json", help="The segments as JSON.")] = False,
) -> None:
    """Says which code, settings, data and machines made a checkpoint, back to step 0.

    The newest part comes first; each of the older ones says what was different. Jobs that resumed
    and runs that began with another's weights are followed: all of it stands in the manifest.

    Example: keepstep lineage runs/shakespeare
    """
    chosen = choose(one)
    found = segments_of(chosen)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{chosen.address}: step {chosen.manifest.step}")
    for line in _tree(found):
        typer.echo(line)


def audit_command(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    show: Annotated[bool, typer.Option("--show", help="Print the lines too.")] = False,
) -> None:
    """Checks that no line of a run's audit was changed, taken out, put in, or cut off.

    The chain is proven line by line, and against what each of the run's checkpoints says of it.
    Names the first line that is wrong, and exits with 1 then.

    Example: keepstep audit runs/shakespeare
    """
    path = run / AUDIT
    if not path.is_file():
        raise ConfigError(f"{path}: found no audit, needed one; name the folder of a run")
    if show:
        for _, record, _ in lines(path):
            typer.echo(json.dumps(record))
    wrong = broken(path) or _unanchored(run)
    if wrong:
        typer.echo(f"{path}: {wrong}", err=True)
        raise typer.Exit(EXIT_FAILED)
    *_, (count, _, digest) = lines(path)
    typer.echo(f"{path}: {count} lines, whole; the last one's SHA-256 is {digest}")


def reproduce_command(one: One) -> None:
    """Prints the commands that make a checkpoint again, and what they depend on.

    Example: keepstep reproduce runs/shakespeare > again.sh
    """
    chosen = choose(one)
    for line in _script(chosen, segments_of(chosen)):
        typer.echo(line)


def segments_of(chosen: Chosen) -> list[Segment]:
    """The parts of the way from step 0 to a checkpoint, oldest first.

    Raises:
        ConfigError: its manifest holds none.
    """
    found = ancestry(chosen.manifest)
    if not found:
        raise ConfigError(
            f"{chosen.address}: found no lineage in its manifest, needed a checkpoint that a run "
            "wrote; what was imported or exported has none"
        )
    return found


def _tree(found: Sequence[Segment]) -> Iterator[str]:
    """The segments, newest first, as a tree of text."""
    newer: dict[str, str] = {}
    for number, segment in enumerate(reversed(found)):
        said = dict(_facts(segment))
        yield f"|- {_title(segment)}"
        for key, words in said.items():
            if newer.get(key) != words:
                yield f"|    {key:<9} {words}"
        newer = said
        if number + 1 == len(found):
            yield f"`- {_origin(segment)}"


def _title(segment: Segment) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(segment["time"]))
    weights = f", whose weights are {segment['checkpoint']}" if "checkpoint" in segment else ""
    return (
        f"steps {segment['from_step']} to {segment['to_step']}, samples {segment['from_sample']} "
        f"to {segment['to_sample']}: {segment['run']}, job {segment['job']}, {when}{weights}"
    )


def _facts(segment: Segment) -> Iterator[tuple[str, str]]:
    code = segment.get("code") or {}
    yield "code", _code_words(code)
    yield "settings", f"{segment['config_digest']}  {shlex.join(segment['command'][1:])}"
    for one in segment["datasets"]:
        uri = f" from {one['uri']}" if one.get("uri") else ""
        yield f"data {one['name']}", f"{one['digest']}, {one['num_samples']:,} samples{uri}"
    yield "seeds", f"train {segment['seed']}, data {segment['data_seed']}"
    yield "ranks", f"{segment['world_size']}: {_layout(segment)}, on {_device(segment)}"
    yield "with", ", ".join(f"{name} {text}" for name, text in segment["versions"].items())
    yield "by", f"{segment.get('user') or 'somebody'} on {segment['host']}"


def _code_words(code: dict[str, Any]) -> str:
    if not code:
        return "not known: the working folder was in no git repository"
    state = {True: "and changes that were not committed", False: "clean", None: "changes not known"}
    dirt = f" ({code['diff_digest'][:_SHOWN]})" if code.get("diff_digest") else ""
    remote = f" of {code['remote']}" if code.get("remote") else ""
    return f"{code['commit'][:_SHOWN]}{remote}, {state[code.get('is_dirty')]}{dirt}"


def _layout(segment: Segment) -> str:
    degrees = {key: n for key, n in segment["layout"].items() if n > 1}
    return ", ".join(f"{key} {n}" for key, n in degrees.items()) or "one of each"


def _device(segment: Segment) -> str:
    return str(segment["hardware"].get("device", "an unknown device"))


def _origin(segment: Segment) -> str:
    if segment["from_step"] == 0 and segment.get("is_new"):
        parent = segment.get("parent")
        return f"step 0: the weights of {parent}" if parent else "step 0: new weights"
    return f"step {segment['from_step']}: what came before is not recorded"


def _unanchored(run: Path) -> str | None:
    """The first checkpoint of the run that knows another audit than the one that lies there."""
    digests = {number: digest for number, _, digest in lines(run / AUDIT)}
    store = locate(str(run)).store
    for found in reversed(committed(store)):
        try:
            anchor = read_manifest(store, found.folder).lineage.get("audit")
        except CheckpointError:
            continue  # `keepstep checkpoint verify` is who says so
        if anchor and digests.get(anchor["lines"]) != anchor["digest"]:
            there = "another one" if anchor["lines"] in digests else "none, so lines were cut off"
            return (
                f"line {anchor['lines']}: found {there}, needed the line with the digest "
                f"{anchor['digest'][:_SHOWN]} that {found.folder} names"
            )
    return None


def _script(chosen: Chosen, found: Sequence[Segment]) -> Iterator[str]:
    """Lines of a shell script: comments for what no command can bring about."""
    last = found[-1]
    own = [one for one in found if one["run_id"] == last["run_id"]]
    yield f"# makes {chosen.address} again: step {chosen.manifest.step}"
    if len(own) < len(found):
        yield f"# begins with the weights of {found[len(found) - len(own) - 1]['checkpoint']}"
    yield from _warnings(own)
    name = f"{last['run']}-again"
    for number, (_, some) in enumerate(groupby(own, key=_way)):
        yield from _stage(list(some), name, is_first=number == 0)
    yield f"# keepstep checkpoint diff {chosen.address} runs/{name} says whether it is the same"


def _warnings(own: Sequence[Segment]) -> Iterator[str]:
    dirty = [one for one in own if (one.get("code") or {}).get("is_dirty") is not False]
    for one in dirty[:1]:
        yield f"# WARNING: job {one['job']} ran {_code_words(one.get('code') or {})}"
    if own[0]["from_step"] > 0:
        yield f"# WARNING: nothing is recorded of the steps before {own[0]['from_step']}"
    yield f"# {', '.join(f'{key} {text}' for key, text in own[-1]['versions'].items())}"
    for one in own[-1]["datasets"]:
        yield f"# data {one['name']}: {one['num_samples']} samples, digest {one['digest']}"
    layouts = {(one["world_size"], _layout(one), _device(one)) for one in own}
    if len(layouts) > 1:
        yield "# WARNING: jobs had other ranks or devices: the sums may differ in their last bits"


def _way(segment: Segment) -> tuple[object, ...]:
    """What tells stages apart that need a command of their own."""
    commit = (segment.get("code") or {}).get("commit")
    return commit, segment["world_size"], tuple(_words(segment))


def _words(segment: Segment) -> list[str]:
    """The overrides that decide what was computed."""
    return [word for word in segment["command"][1:] if not word.lstrip("+~").startswith(_OF_PLACE)]


def _stage(some: Sequence[Segment], name: str, *, is_first: bool) -> Iterator[str]:
    """One command: it trains past the stage's last step, and leaves a checkpoint there."""
    one, end = some[0], some[-1]["to_step"]
    if (commit := (one.get("code") or {}).get("commit")) is not None:
        yield f"git checkout {commit}"
    ranks = one["world_size"]
    yield f"# {ranks} ranks ({_layout(one)}) of {_device(one)}: others give the same to rounding"
    more = [
        f"run.name={name}",
        f"checkpoint.every_steps={end}",
        f"checkpoint.keep_every_steps={end}",
    ]
    if not is_first:
        more += [f"run.resume={one['from_step']}", "run.on_change=accept"]
    words = shlex.join([*_words(one), *more])
    yield f"{_program(one)} {words}"


def _program(segment: Segment) -> str:
    """What started the job, by itself or under torchrun: a script, or keepstep's own main job."""
    ranks, words = segment["world_size"], segment.get("program") or []
    launch = f"torchrun --standalone --nproc-per-node={ranks}"
    if words and words[0].endswith(".py"):
        return f"{'python' if ranks == 1 else launch} {shlex.join(words)}"
    return "keepstep train" if ranks == 1 else f"{launch} -m keepstep.trainer"
