"""What only a GPU shows, on one: the whole runtime (guardian, NCCL group of one, checkpoint at the
end) in every precision, compiled and not, beside the best plain torch loop of the same model.

Prints a table of tokens/s, MFU and loss, and writes JSON named after the device under
scripts/results/. `--device cpu --model llama_tiny` rehearses it where there is no GPU.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from keepstep.data import Corpus, DataConfig, open_corpus
from keepstep.trainer.compose import compose
from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.models.llama import Llama, flops_per_token
from keepstep.trainer.telemetry.flops import peak_flops

RESULTS = Path(__file__).parent / "results"
WARM_STEPS = 6
CASES: dict[str, tuple[str, ...]] = {
    "tf32": ("precision=tf32",),
    "bf16": ("precision=bf16",),
    "bf16 compiled": ("precision=bf16", "memory.compile=true"),
    "bf16 compiled, selective recompute": (
        *("precision=bf16", "memory.compile=true", "memory.recompute=selective"),
    ),
    "bf16_pure compiled": ("precision=bf16_pure", "memory.compile=true"),
    "fp16 compiled": ("precision=fp16", "memory.compile=true"),
    "fp8 tensorwise compiled": (
        *("precision=fp8", "precision.recipe=tensorwise", "memory.compile=true"),
    ),
    "fp8 rowwise compiled": ("precision=fp8", "precision.recipe=rowwise", "memory.compile=true"),
}


def run_case(overrides: tuple[str, ...]) -> dict[str, Any]:
    """One run of the whole runtime; what its folder says."""
    with tempfile.TemporaryDirectory(prefix="keepstep-gpu-") as folder:
        command = [sys.executable, "-m", "keepstep.trainer", f"run.dir={folder}/run", *overrides]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            return {"failed": last[0] if last else f"exit code {done.returncode}"}
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines][WARM_STEPS:]
        events = map(json.loads, Path(folder, "run", "events.jsonl").read_text().splitlines())
        return {
            "tokens_per_second": statistics.median(step["tokens_per_second"] for step in steps),
            "loss": steps[-1]["loss"],
            "checkpoint_seconds": [e["seconds"] for e in events if e["kind"] == "checkpoint"],
        }


def plain_loop(common: list[str], device: torch.device, corpus: Corpus) -> dict[str, Any]:
    """bf16 autocast, the whole model compiled, fused AdamW: what one would write by hand."""
    config = compose(common)
    assert isinstance(config.model, LlamaConfig)
    length, train = config.data.sequence_length, config.train
    vocabulary = config.model.vocabulary_size or corpus.vocabulary_size
    source = corpus.train
    torch.manual_seed(0)
    with device:
        model = Llama(config.model, vocabulary_size=vocabulary, max_length=length)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else None
        torch.nn.init.ones_(parameter) if parameter.ndim == 1 else None
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    samples, micro = train.batch_tokens // length, train.microbatch_samples
    rates, loss = [], torch.zeros(())
    for step in range(train.steps):
        begun = time.perf_counter()
        for first in range(0, samples, micro):
            ids = torch.arange(first, first + micro) + step * samples
            tokens = source.read((ids % len(source)).numpy())["tokens"].to(device).long()
            with torch.autocast(device.type, torch.bfloat16):
                logits = compiled(tokens[:, :-1])
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
            )
            (loss * micro / samples).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())  # waits for the device, as reading a step's loss does
        rates.append(train.batch_tokens / (time.perf_counter() - begun))
    return {
        "tokens_per_second": statistics.median(rates[WARM_STEPS:]),
        "loss": float(loss.detach()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="llama_1b")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--microbatch-samples", type=int, default=8)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "check_gpu: found no CUDA device, needed one; pass --device cpu to rehearse"
        )
    device = torch.device(asked.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    data = DataConfig(name="shakespeare", sequence_length=asked.sequence_length)
    corpus = open_corpus(data, report=print)
    common = [
        *(f"model={asked.model}", f"train.steps={asked.steps}", f"parallel.device={asked.device}"),
        *(f"data.sequence_length={asked.sequence_length}", "train.eval_every=0"),
        *(f"train.batch_tokens={asked.batch_tokens}", "train.eval_samples=8"),
        *(f"train.microbatch_samples={asked.microbatch_samples}", "train.sample_tokens=0"),
        *("optim.lr=3e-4", "telemetry.progress=false", "checkpoint.every_steps=0"),
    ]
    config = compose(common)
    assert isinstance(config.model, LlamaConfig)
    vocabulary = config.model.vocabulary_size or corpus.vocabulary_size
    flops = flops_per_token(config.model, vocabulary, asked.sequence_length)
    found: dict[str, dict[str, Any]] = {
        "plain torch, bf16 compiled": plain_loop(common, device, corpus)
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for case in asked.cases:
        found[case] = run_case((*common, *CASES[case]))
        print(f"{case}: {found[case]}", flush=True)
    show(found, flops, device)
    RESULTS.mkdir(exist_ok=True)
    facts = {"device": name, "torch": torch.__version__, "asked": vars(asked)}
    path = RESULTS / f"check_gpu-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.json"
    path.write_text(json.dumps({"check": "gpu", **facts, "results": found}, indent=1) + "\n")
    print(f"written: {path}")


def show(found: dict[str, dict[str, Any]], flops: float, device: torch.device) -> None:
    """The table; MFU against the peak of the precision's products, dense."""
    plain = found["plain torch, bf16 compiled"]["tokens_per_second"]
    print(f"\n{'case':<38}{'tokens/s':>12}{'of plain':>10}{'MFU':>8}{'loss':>9}")
    for case, row in found.items():
        if "failed" in row:
            print(f"{case:<38}  {row['failed']}")
            continue
        rate = row["tokens_per_second"]
        word = "bf16" if case.startswith("plain") else case.split()[0]
        config = compose([f"precision={word}"])
        peak = peak_flops(device, config.precision.name)
        row["mfu"] = rate * flops / peak if peak else None
        mfu = f"{row['mfu']:.1%}" if row["mfu"] is not None else "-"
        loss = f"{row['loss']:.3f}" if math.isfinite(row["loss"]) else str(row["loss"])
        print(f"{case:<38}{rate:>12,.0f}{rate / plain:>10.2f}{mfu:>8}{loss:>9}")


if __name__ == "__main__":
    main()
