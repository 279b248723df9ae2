"""How fast samples come from a bucket: cold, warm, with half a cache, and how evenly.

One server on loopback answers all: 30 ms to the first byte, 1 % of requests 500 ms late, 80 MB/s a
connection; 65,536 samples of 4 kB, the same bytes in each format. keepstep reads token shards and,
beside them, the very MDS shards that mosaicml-streaming reads; the peers read what their own
writers wrote, shuffled, in batches of 64, with the better of no and one worker process. A turn runs
everyone once, in turns of alternating order; the table shows medians. A gather from a memory-mapped
array of the same samples is the limit for a warm cache.

    scripts/bench_data --peers /tmp/peers/bin/python     # the environment: scripts/peers
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.s3.faults import Faults  # noqa: E402
from support.s3_server import S3Server, s3_server  # noqa: E402

from keepstep.data import DataConfig, Loader, Order, OrderRecipe, open_corpus, order_of  # noqa: E402
from keepstep.data.cache import CacheConfig  # noqa: E402
from keepstep.data.lock import lock, with_digests  # noqa: E402
from keepstep.data.lockfile import write_lock  # noqa: E402
from keepstep.data.store import LocalStore, StoreConfig  # noqa: E402

SAMPLES, BYTES, BATCH = 65_536, 4096, 64
SERVER = Faults(latency=0.03, tail_share=0.01, tail_seconds=0.5, bandwidth=80e6)
RESULT = ROOT / "scripts" / "results" / "bench_data.json"
PEERS = ("mosaic", "litdata", "webdataset")
OURS = ("tokens", "mosaic")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "y",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peers", help="the interpreter of the peers' environment; none: ours alone"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--data", type=Path, help="where the datasets are kept; default: made anew")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.update(CREDENTIALS)
    if asked.one:
        kind, endpoint, cache, epochs = asked.one
        print(json.dumps(read(kind, endpoint, cache, int(epochs), asked.limit, asked.rate)))
        return
    with tempfile.TemporaryDirectory(prefix="keepstep-bench-") as folder:
        data = asked.data or Path(folder)
        make(data, asked.peers)
        with s3_server(SERVER, folder=data) as server:
            report(Bench(server, Path(folder), asked.peers, asked.turns).run())


def make(data: Path, peers: str | None) -> None:
    """The datasets, where they are not there yet: bench/<format>/ below `data`, ours locked."""
    bench = data / "bench"
    if not bench.exists() and peers:
        subprocess.run([peers, ROOT / "scripts/peers/measure.py", "write", bench], check=True)
    elif not bench.exists():
        rows = np.random.default_rng(0).integers(0, 2**16, (16, SAMPLES // 16 * BYTES // 2))
        (bench / "tokens").mkdir(parents=True)
        for number, part in enumerate(rows.astype(np.uint16)):
            np.save(bench / "tokens" / f"{number:03d}.npy", part)
    for kind in OURS:
        if (bench / kind).exists() and not (bench / kind / "keepstep.lock").exists():
            dataset = with_digests(lock(str(bench / kind), LocalStore()), LocalStore())
            write_lock(dataset, bench / kind / "keepstep.lock")


def read(
    kind: str, endpoint: str, cache: str, epochs: int, limit: int, rate: float
) -> list[dict[str, Any]]:
    """Ours, in a process of its own as the peers are: one entry an epoch."""
    for name in ("obstore.store", "botocore.session"):  # as a run's warm server has them
        importlib.import_module(name)
    begun = time.perf_counter()
    config = DataConfig(
        name=kind,
        path=f"s3://bench/{kind}/keepstep.lock",
        # A record of n tokens is n - 1 inputs and their targets; shards run on.
        sequence_length=BYTES // 2 - (kind != "tokens"),
        token_field="x",
        token_dtype="uint16" if kind != "tokens" else None,
        vocabulary_size=2**16,
        eval_fraction=1e-6,
        cache=CacheConfig(folder=cache, free_bytes=0, disk_bytes=limit or 2**40),
        held_bytes=2**24 if limit else 2**28,
        store=StoreConfig(endpoint_url=endpoint),
    )
    corpus = open_corpus(config, report=lambda words: None)
    access = corpus.train.accesses[0]
    order = order_of(corpus.train, config)
    loader = Loader(corpus.train, order, batch_samples=BATCH, microbatch_samples=BATCH, prefetch=32)
    found = []
    with loader.open(0):
        for _ in range(epochs):
            first, waits = None, []
            for step in range(len(corpus.train) // BATCH):
                asked = time.perf_counter()
                next(loader)
                now = time.perf_counter()
                first = first or now - begun
                waits.append(now - asked)
                if rate:  # a consumer that takes its samples at an even pace
                    time.sleep(max(0.0, begun + first + (step + 1) * BATCH / rate - now))
            seconds = time.perf_counter() - begun
            sizes = {"samples": len(waits) * BATCH, "first": first, "seconds": seconds}
            fetched = access.counts["fetched_bytes"] - sum(one["fetched"] for one in found)
            found.append({**sizes, "stall": max(waits[1:]), "fetched": fetched})
            begun = time.perf_counter()
    corpus.close()
    return found


class Bench:
    """Everyone in turns on one server."""

    def __init__(self, server: S3Server, folder: Path, peers: str | None, turns: int) -> None:
        self.server = server
        self.folder = folder
        self.peers = peers
        self.turns = turns

    def run(self) -> dict[str, Any]:
        sides: dict[str, Callable[[], dict[str, Any]]] = {
            f"keepstep, {kind}": lambda kind=kind: self.ours(kind) for kind in OURS[: self.kinds]
        }
        for peer in PEERS if self.peers else ():
            workers = self.better(peer)
            sides[f"{peer}, {workers} workers"] = lambda p=peer, w=workers: self.theirs(p, w)
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for turn in range(self.turns):
            for name in list(sides) if turn % 2 == 0 else list(reversed(sides)):
                rows[name].append(sides[name]())
                print(f"turn {turn + 1}, {name}: {json.dumps(rows[name][-1])}", flush=True)
        capacity = statistics.median(row["cold"] for row in rows["keepstep, tokens"])
        return {
            "rows": {name: medians(found) for name, found in rows.items()},
            "stalls at 70 %": [self.stall(0.7 * capacity) for _ in range(self.turns)],
            "gather": gather(),
            "resume": resume(),
        }

    @property
    def kinds(self) -> int:
        return 2 if self.peers else 1

    def ours(self, kind: str) -> dict[str, Any]:
        command = [sys.executable, __file__, "--one", kind, self.server.endpoint]
        found = self.measure(lambda cache: [*command, cache, "2"])
        half = SAMPLES * BYTES * 52 // 100
        more = self.measure(lambda cache: [*command, cache, "3", "--limit", str(half)])
        return {**found, "half_first": more["fetched"][0], "half_later": more["fetched"][-1]}

    def theirs(self, peer: str, workers: int) -> dict[str, Any]:
        script = str(ROOT / "scripts" / "peers" / "measure.py")
        command = [str(self.peers), "-W", "ignore", script, peer, f"s3://bench/{peer}"]
        end = ["--epochs", "2", "--workers", str(workers)]
        return self.measure(lambda cache: [*command, cache, *end])

    def better(self, peer: str) -> int:
        """Whether a worker process makes a peer's cold epoch faster."""
        return max((0, 1), key=lambda workers: self.theirs(peer, workers)["cold"])

    def stall(self, rate: float) -> float:
        command = [sys.executable, __file__, "--one", "tokens", self.server.endpoint]
        found = self.measure(lambda cache: [*command, cache, "1", "--rate", str(rate)])
        return float(found["stall"])

    def measure(self, command: Callable[[str], list[str]]) -> dict[str, Any]:
        endpoint = {
            "AWS_ENDPOINT_URL": self.server.endpoint,
            "S3_ENDPOINT_URL": self.server.endpoint,
        }
        self.server.counts(reset=True)
        # None is deleted before the end: for minutes after many files were, ext4 takes ten times
        # as long to make one (it goes round their inodes), and the next one measured would pay.
        done = subprocess.run(
            command(tempfile.mkdtemp(dir=self.folder)),
            env={**os.environ, **endpoint, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr.decode()[-2000:])
        epochs = json.loads(done.stdout.splitlines()[-1])
        size = SAMPLES * BYTES
        found = {
            "first": epochs[0]["first"],
            "cold": epochs[0]["samples"] / epochs[0]["seconds"],
            "warm": epochs[-1]["samples"] / epochs[-1]["seconds"],
            "stall": epochs[0].get("stall"),
            "fetched": [epoch.get("fetched", 0) / size for epoch in epochs],
        }
        counts = self.server.counts(reset=True)
        return {**found, "bytes": sum(counts["bytes"].values()) / size}


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = {
        key: [row[key] for row in rows] for key in rows[0] if isinstance(rows[0][key], float)
    }
    return {key: {"median": statistics.median(x), "all": x} for key, x in numbers.items()}


def gather() -> float:
    """Samples a second of a plain gather from a memory-mapped array, batches of 64."""
    with tempfile.NamedTemporaryFile() as file:
        shape = (SAMPLES, BYTES // 2)
        np.memmap(file.name, np.uint16, "w+", shape=shape)[:] = 1
        rows = np.memmap(file.name, np.uint16, "r", shape=shape)
        order = np.random.default_rng(0).permutation(SAMPLES).reshape(-1, BATCH)
        rates = []
        for _ in range(5):
            begun = time.perf_counter()
            for ids in order:
                rows[ids]
            rates.append(SAMPLES / (time.perf_counter() - begun))
    return statistics.median(rates)


def resume() -> dict[str, float]:
    """The order at nine tenths of 10^12 samples, from nothing: milliseconds and bytes."""
    recipe = OrderRecipe(num_samples=10**12, block=1024, lanes=64, window=8, seed=0)
    Order(recipe).batch(0, BATCH)
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for turn in range(5):
        begun = time.perf_counter()
        Order(recipe).batch(9 * 10**11 + turn, BATCH)
        times.append(1e3 * (time.perf_counter() - begun))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"milliseconds": statistics.median(times), "kilobytes": grown}


def report(found: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    names = ("first", "cold", "warm", "stall", "bytes", "half_first", "half_later")
    print(f"{'':<26}" + "".join(f"{name:>12}" for name in names))
    for side, row in found["rows"].items():
        cells = [f"{row[name]['median']:>12,.3f}" if name in row else f"{'':>12}" for name in names]
        print(f"{side:<26}" + "".join(cells))
    print(
        "first: seconds; cold, warm: samples/s; stall: longest wait, s; bytes: by the server, and"
    )
    print(
        "half_first, half_later: fetched in the first and the last of three epochs with a cache of"
    )
    print("52 %; all of them / dataset")
    print(f"longest stall at 70 %: {sorted(found['stalls at 70 %'])}")
    print(f"memory-mapped gather: {found['gather']:,.0f} samples/s; resume: {found['resume']}")


if __name__ == "__main__":
    main()
