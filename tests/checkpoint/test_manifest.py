"""A manifest proves its own bytes, contradicts itself nowhere, and names no file elsewhere."""

import gc
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.checkpoint import CorruptError, Manifest, VersionError
from keepstep.checkpoint.digest import digest_bytes
from keepstep.checkpoint.manifest import ChunkEntry, FileEntry, decode, encode

DIGEST = "0" * 32


def chunk(**changes):
    fields = {"name": "w", "dtype": "float32", "global_shape": (4, 2), "offsets": (0, 0)}
    fields |= {"shape": (2, 2), "file": "rank-00000.safetensors", "start": 80, "end": 96}
    return ChunkEntry(**{**fields, "digest": DIGEST, **changes})


def manifest(**changes):
    names = ("rank-00000.safetensors", "rank-00001.safetensors")
    fields = {
        "step": 5,
        "attempt": "0123abcd",
        "created": 1.5,
        "topology": {"world_size": 2},
        "progress": {"tokens": 10**15, "loss": 0.1},
        "lineage": {"parent": None, "note": "caf\u00e9"},
        "files": tuple(
            FileEntry(name=name, bytes=96, header_bytes=80, header_digest=DIGEST) for name in names
        ),
        "chunks": (chunk(), chunk(offsets=(2, 0), file=names[1])),
    }
    return Manifest(**{**fields, **changes})


def resealed(change):
    """The manifest's bytes after `change(head, tensors)`, with digests that fit again."""
    record = json.loads(encode(manifest()))
    change(record["head"], record["tensors"])
    return sealed_bytes(record["head"], record["tensors"])


def sealed_bytes(head, tensors, version=3):
    head, tensors = (json.dumps(one, separators=(",", ":")) for one in (head, tensors))
    rest = (
        f'"format":"keepstep-checkpoint","format_version":{version},"head_bytes":{len(head)},'
        f'"head_digest":"{digest_bytes(head.encode())}","signature":"",'
        f'"head":{head},"tensors":{tensors}}}'
    ).encode()
    return b'{"digest":"%b",%b' % (digest_bytes(rest).encode(), rest)


def boxes(tensors):
    return tensors["w"][2]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_decoding_leaves_garbage_collection_as_it_was(is_enabled, monkeypatch):
    monkeypatch.setattr(gc, "isenabled", lambda: is_enabled)
    calls = []
    monkeypatch.setattr(gc, "enable", lambda: calls.append("enable"))
    monkeypatch.setattr(gc, "disable", lambda: calls.append("disable"))
    decode(encode(manifest()), path="here")
    with pytest.raises(CorruptError):
        decode(resealed(lambda head, tensors: boxes(tensors).clear()), path="here")
    assert calls == (["disable", "enable"] if is_enabled else ["disable"]) * 2


def test_what_was_encoded_is_decoded():
    raw = encode(manifest())
    assert decode(raw, path="here") == manifest()
    assert raw.isascii()
    assert b"\n" not in raw


def test_every_byte_of_it_is_proven():
    raw = encode(manifest())
    for position in range(len(raw)):
        flipped = bytearray(raw)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(CorruptError, match=r"here/manifest\.json"):
            decode(bytes(flipped), path="here")


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_no_other_bytes_are_a_manifest(raw):
    with pytest.raises(CorruptError):
        decode(raw, path="here")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\n",
        lambda raw: raw.replace(b",", b", ", 1),
        lambda raw: raw[:-1] + b',"step":5}',
        lambda raw: raw.decode().encode("utf-16"),
        lambda raw: b"[" * 100_000,
        lambda raw: b'{"digest":NaN}',
    ],
)
def test_bytes_that_only_resemble_it_are_refused(spoil):
    with pytest.raises(CorruptError):
        decode(spoil(encode(manifest())), path="here")


def test_an_unknown_version_is_refused_by_name():
    raw = sealed_bytes({"news": True}, {}, version=7)
    with pytest.raises(VersionError, match="format_version 7, but this release reads"):
        decode(raw, path="here")


@pytest.mark.parametrize(
    "name",
    ["../rank-00000.safetensors", "/etc/passwd", "rank-00000.safetensors\n", "rank-0.safetensors"],
)
def test_a_file_outside_of_the_folder_is_refused(name):
    def change(head, tensors):
        head["files"][0]["name"] = name

    with pytest.raises(CorruptError, match="a file is named"):
        decode(resealed(change), path="here")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda h, t: h.update(extra=1), "unknown: extra"),
        (lambda h, t: h.pop("lineage"), "fields missing or unknown: lineage"),
        (lambda h, t: h.update(step=-1), "step is -1"),
        (lambda h, t: h.update(step=True), "step is True"),
        (lambda h, t: h.update(progress=[]), "progress is no object"),
        (lambda h, t: h.update(files=3), "contradicts itself"),
        (lambda h, t: t.update(w=None), "contradicts itself"),
        (lambda h, t: h.update(claim=1), "claim is 1 of run None"),
        (lambda h, t: h["files"].append(h["files"][0]), "listed twice"),
        (lambda h, t: h["files"].pop(), "unlisted file"),
        (lambda h, t: h["files"][0].update(bytes=100), "ends elsewhere"),
        (lambda h, t: h["files"][0].update(header_digest="x"), "digest of"),
        (lambda h, t: h["files"][0].update(extra=1), "unknown: extra"),
        (lambda h, t: boxes(t).pop(), "ends elsewhere"),
        (lambda h, t: boxes(t).append(boxes(t)[0]), "in no or two tensors"),
        (lambda h, t: boxes(t)[0].__setitem__(3, 84), "in no or two tensors"),
        (lambda h, t: boxes(t)[0].__setitem__(3, -80), "box that is none"),
        (lambda h, t: boxes(t)[0].__setitem__(4, "x"), "digest of"),
        (lambda h, t: t["w"].__setitem__(0, "object"), "has dtype 'object'"),
        (lambda h, t: t["w"].__setitem__(0, "int64"), "ends elsewhere"),
        (lambda h, t: boxes(t)[0].__setitem__(0, [1, 0]), "overlap"),
        (lambda h, t: boxes(t)[0].__setitem__(0, [-1, 0]), "box that is none"),
        (lambda h, t: boxes(t)[0].__setitem__(0, [True, 0]), "box that is none"),
        (lambda h, t: boxes(t)[0].__setitem__(0, [3, 0]), "outside of itself"),
        (lambda h, t: boxes(t)[0].__setitem__(1, "ab"), "box that is none"),
        (lambda h, t: boxes(t)[0].append(1), "contradicts itself"),
    ],
)
def test_a_contradiction_is_named_though_the_digest_fits(change, wrong):
    with pytest.raises(CorruptError, match=wrong):
        decode(resealed(change), path="here")


@pytest.mark.parametrize(
    "progress", [{"loss": float("nan")}, {1: "a"}, {"pair": (1, 2)}, {"set": {1}}]
)
def test_values_that_json_would_change_are_not_written(progress):
    with pytest.raises((ValueError, TypeError)):
        encode(manifest(progress=progress))


def test_boxes_that_leave_a_gap_are_not_written():
    with pytest.raises(ValueError, match="leave a gap"):
        encode(manifest(files=manifest().files[:1], chunks=(chunk(),)))
