"""The objects of the test S3 server, in memory or files of a folder, and how they are listed."""

import hashlib
import mmap
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PAGE = 1000


class Content(NamedTuple):
    """One object: its bytes, its ETag without quotes, and when it was written."""

    body: memoryview
    tag: str
    modified: str


class Memory:
    """Objects by "bucket/key"."""

    def __init__(self) -> None:
        self._contents: dict[str, Content] = {}

    def get(self, name: str) -> Content | None:
        return self._contents.get(name)

    def put(self, name: str, body: bytes) -> Content:
        tag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self._contents[name] = Content(memoryview(body), tag, formatdate(usegmt=True))
        return self._contents[name]

    def delete(self, name: str) -> None:
        self._contents.pop(name, None)

    def names(self, bucket: str) -> list[str]:
        """All names in the bucket, with it, in order."""
        return sorted(name for name in self._contents if name.startswith(f"{bucket}/"))


class Folder:
    """The files folder/bucket/key, mapped at their first use and again once they changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._mapped: dict[str, tuple[str, Content]] = {}

    def get(self, name: str) -> Content | None:
        path = self._folder / name
        try:
            facts = path.stat()
        except OSError:
            return None
        if path.is_dir() or ".." in name.split("/"):
            return None
        tag = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"
        known = self._mapped.get(name)
        if known is not None and known[0] == tag:
            return known[1]
        with path.open("rb") as stream:
            body = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) if facts.st_size else b""
        content = Content(memoryview(body), tag, formatdate(facts.st_mtime, usegmt=True))
        self._mapped[name] = (tag, content)
        return content

    def put(self, name: str, body: bytes) -> Content:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(body)
        partial.rename(path)
        found = self.get(name)
        assert found is not None
        return found

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def names(self, bucket: str) -> list[str]:
        top = self._folder / bucket
        return sorted(p.relative_to(self._folder).as_posix() for p in top.rglob("*") if p.is_file())


Objects = Memory | Folder


def listing(objects: Objects, bucket: str, query: dict[str, str]) -> bytes:
    """One page of ListObjectsV2 as XML; the continuation token is the last key of the page before,
    behind a letter so that no client takes an empty one for the end."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token", "")[1:] or query.get("start-after", "")
    most = min(PAGE, int(query.get("max-keys") or PAGE))
    found: list[str] = []
    folders: list[str] = []
    last, is_cut = after, False
    for name in objects.names(bucket):
        key = name[len(bucket) + 1 :]
        if not key.startswith(prefix) or key <= after or (folders and key.startswith(folders[-1])):
            continue
        if len(found) + len(folders) >= most:
            is_cut = True
            break
        rest, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        if cut:
            folders.append(f"{prefix}{rest}{delimiter}")
            last = f"{folders[-1]}\U0010ffff"
        else:
            found.append(key)
            last = key
    parts = [_row(key, objects.get(f"{bucket}/{key}")) for key in found]
    parts += [f"<CommonPrefixes><Prefix>{escape(x)}</Prefix></CommonPrefixes>" for x in folders]
    if is_cut:
        parts.append(f"<NextContinuationToken>k{escape(last)}</NextContinuationToken>")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix>"
        f"<KeyCount>{len(found) + len(folders)}</KeyCount><MaxKeys>{most}</MaxKeys>"
        f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{''.join(parts)}</ListBucketResult>"
    ).encode()


def _row(key: str, content: Content | None) -> str:
    if content is None:
        return ""
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{content.tag}&quot;</ETag><Size>{len(content.body)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )
