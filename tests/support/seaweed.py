"""A real S3 server, SeaweedFS, on loopback; and rclone, which ignores conditions."""

import contextlib
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import botocore.session
from support.ports import is_free

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret123"}
_PROGRAMS = Path(sys.executable).parent


@contextlib.contextmanager
def seaweed(folder: Path, buckets: Sequence[str]) -> Iterator[str]:
    """Runs SeaweedFS with these buckets until the end of the block; its endpoint.

    Who calls needs CREDENTIALS in its environment.
    """
    base = _free_ports(5)
    ports = ("s3", "master", "volume", "filer", "admin")
    words = [f"-{name}.port={base + place}" for place, name in enumerate(ports)]
    words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-master.telemetry=false"]
    words += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    words += ["-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false"]
    words += [f"-bucket={','.join(buckets)}"]
    command = [str(_PROGRAMS / "weed"), "mini", *words]
    with _running(command, f"http://127.0.0.1:{base}", folder / "log") as endpoint:
        _wait_for_buckets(endpoint, buckets)
        yield endpoint


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """Serves the folders of `folder` as buckets until the end of the block; the endpoint."""
    port = _free_ports(1)
    keys = ",".join(CREDENTIALS.values())
    words = ["serve", "s3", f"--addr=127.0.0.1:{port}", f"--auth-key={keys}", str(folder)]
    words += ["--config=/dev/null", "--vfs-cache-mode=off", "--dir-cache-time=0s"]
    command = [str(_PROGRAMS / "rclone"), *words]
    with _running(command, f"http://127.0.0.1:{port}", folder.parent / "log") as endpoint:
        yield endpoint


@contextlib.contextmanager
def _running(command: list[str], endpoint: str, log: Path) -> Iterator[str]:
    environment = {**os.environ, **CREDENTIALS}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process,
    ):
        try:
            _wait(process, endpoint, log)
            yield endpoint
        finally:
            process.kill()


def _wait(process: "subprocess.Popen[bytes]", endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(endpoint, timeout=5):
                return
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500:
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{endpoint} is not ready:\n{log.read_text()[-3000:]}")


def _wait_for_buckets(endpoint: str, buckets: Sequence[str]) -> None:
    """They are made only after the server answers."""
    session = botocore.session.Session()
    session.set_credentials(*CREDENTIALS.values())
    client = session.create_client("s3", endpoint_url=endpoint, region_name="us-east-1")
    for bucket in buckets:
        client.get_waiter("bucket_exists").wait(
            Bucket=bucket, WaiterConfig={"Delay": 0.05, "MaxAttempts": 600}
        )


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now, as are those 10,000 above, where
    SeaweedFS listens too."""
    for _ in range(200):
        base = random.SystemRandom().randrange(11_000, 21_000)
        if all(is_free(base + more + step) for step in (0, 10_000) for more in range(count)):
            return base
    raise OSError(f"found no {count} free ports in a row, needed them; end some servers")
