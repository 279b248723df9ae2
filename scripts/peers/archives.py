"""Fixtures by webdataset and Energon: tar archives of every kind, and their indexes."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from samples import expect, fresh


def write() -> None:
    import webdataset

    folder = fresh("webdataset")
    samples = [sample(n) for n in range(10)]
    (folder / "plain").mkdir()
    pattern = str(folder / "plain" / "part-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0, encoder=False, mtime=0) as out:
        for one in samples:
            out.write(one)
    expect(folder / "plain", samples)
    (folder / "packed").mkdir()
    with webdataset.TarWriter(
        str(folder / "packed" / "one.tar.gz"), encoder=False, compress=True, mtime=0
    ) as out:
        for one in samples:
            out.write(one)
    expect(folder / "packed", samples)
    write_kinds(folder / "kinds")
    write_wids(folder / "wids", samples)
    write_energon(folder / "energon", samples)


def sample(number: int) -> dict[str, Any]:
    found = {
        "__key__": f"deep.er/dir/{number:04d}",
        "txt": f"caption {number} \u00e9".encode(),
        "seg.png": bytes(range(number * 25)),
        "json": json.dumps({"n": number}).encode(),
    }
    if number % 3 == 0:
        del found["json"]
    return found


def add(out: tarfile.TarFile, name: str, body: bytes, **facts: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for key, value in facts.items():
        setattr(info, key, value)
    out.addfile(info, io.BytesIO(body))


def write_kinds(folder: Path) -> None:
    """One archive a tar format, with long names, folders, links, and members that are skipped."""
    folder.mkdir()
    expected = []
    kinds = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    for kind, form in sorted(kinds.items()):
        long = f"{kind}/" + "d" * 80 + "/" + "n" * (60 if kind == "ustar" else 150)
        with tarfile.open(folder / f"{kind}.tar", "w", format=form) as out:
            add(out, f"{kind}", b"", type=tarfile.DIRTYPE)
            add(out, "__meta__", b"skipped")
            add(out, "__folder__/x.txt", b"skipped")
            for name in ("a", long, "\u00e9" if kind == "pax" else "b"):
                add(
                    out, f"{name}.txt", f"{kind} {name}".encode(), mtime=1.5 if kind == "pax" else 1
                )
                add(out, "noextension", b"skipped")
                add(out, f"{name}.link", b"", type=tarfile.SYMTYPE, linkname="a.txt")
                add(out, f"{name}.Seg.PNG", b"\0" * 600)
                expected.append(
                    {"__key__": name, "txt": f"{kind} {name}".encode(), "seg.png": b"\0" * 600}
                )
    expect(folder, expected)


def write_wids(folder: Path, samples: list[dict[str, Any]]) -> None:
    import hashlib

    import webdataset

    folder.mkdir()
    shards = []
    for number, part in enumerate((samples[:6], samples[6:])):
        path = folder / f"w-{number}.tar"
        with webdataset.TarWriter(str(path), encoder=False, mtime=0) as out:
            for one in part:
                out.write(one)
        body = path.read_bytes()
        shards.append(
            {
                "url": path.name,
                "md5sum": hashlib.md5(body).hexdigest(),
                "nsamples": len(part),
                "filesize": len(body),
            }
        )
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    (folder / "shardindex.json").write_text(json.dumps(index, indent=2))
    expect(folder, samples)


def write_energon(folder: Path, samples: list[dict[str, Any]]) -> None:
    import webdataset
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    folder.mkdir()
    pattern = str(folder / "e-%d.tar")
    with webdataset.ShardWriter(pattern, maxcount=7, verbose=0, encoder=False, mtime=0) as out:
        for one in samples:
            out.write({**one, "__key__": one["__key__"].rpartition("/")[2]})
    WebdatasetPreparator.prepare_dataset(
        EPath(folder),
        ["e-0.tar", "e-1.tar"],
        split_parts_ratio=[("train", 1.0)],
        tar_index_only=True,
        workers=1,
        progress_fn=lambda items, length: items,
    )
    shutil.rmtree(folder / ".nv-meta")
    expect(folder, [{**one, "__key__": one["__key__"].rpartition("/")[2]} for one in samples])
