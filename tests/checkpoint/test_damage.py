"""Random damage of checkpoints of two ranks: all of it is found, none is loaded, the older is used.

KEEPSTEP_FLIPS sets how many bytes are flipped, and how many files are cut.
"""

import os
import random
from pathlib import Path

import torch.distributed as dist
from support.world import run_world

from keepstep.checkpoint import Checkpoints, LocalStore, verify

FLIPS = int(os.environ.get("KEEPSTEP_FLIPS", "60"))


def harm(folder: Path, seed: int) -> tuple[Path, bytes]:
    """Flips one bit of a byte of the folder, each as likely as any other, or every fourth time cuts
    a file; the file and what it held."""
    rng = random.Random(seed)
    files = sorted(folder.iterdir())
    sizes = [file.stat().st_size for file in files]
    if seed % 4 == 3:
        file = rng.choice(files)
        data = file.read_bytes()
        file.write_bytes(data[: rng.randrange(len(data))])
        return file, data
    (file,) = rng.choices(files, sizes)
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(flipped)
    return file, data


def test_every_flipped_byte_and_cut_file_is_found_and_the_older_step_is_used(kit, tmp_path):
    def body(rank):
        place = LocalStore(tmp_path)
        checkpoints = Checkpoints(place, kit.GlooExchange(), keep=9)
        for step in (1, 2):
            saved = kit.save(checkpoints, kit.spread(kit.full_state(step), "shard2"), step)
        newest, older = Path(saved.path), kit.full_state(1)
        state = kit.spread(kit.zeroed(older), "shard2")
        for seed in range(FLIPS):
            dist.barrier()
            if rank == 0:
                file, data = harm(newest, seed)
            dist.barrier()
            restored = checkpoints.restore(state, in_place=bool(seed % 2))
            assert restored.step == 1, seed
            assert kit.is_equal(kit.gathered(state), older), seed
            assert newest.name in {Path(one.path).name for one in restored.damaged}, seed
            if rank == 0:
                assert {one.file for one in verify(place, newest.name)} == {file.name}, seed
                file.write_bytes(data)
        dist.barrier()
        return checkpoints.restore(state).step

    assert run_world(2, body, timeout_seconds=60 + FLIPS) == [2, 2]
