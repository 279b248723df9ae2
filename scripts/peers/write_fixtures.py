"""Writes the small datasets of tests/data/fixtures with the real writers of other tools.

The files there were written by mosaicml-streaming 0.13.0, litdata 0.2.76, webdataset 1.0.2,
megatron-core 0.16.1 and megatron-energon 7.4.1. None of them can live beside keepstep, so they get
an environment of their own (torch of a CPU is enough):

    python3.11 -m venv /tmp/peers && /tmp/peers/bin/pip install torch==2.13.0 'numpy<2.2'
    /tmp/peers/bin/pip install --no-deps mosaicml-streaming==0.13.0 litdata==0.2.76 \\
        webdataset==1.0.2 megatron-core==0.16.1 megatron-energon==7.4.1 multi-storage-client
    /tmp/peers/bin/pip install Brotli python-snappy zstd zstandard 'xxhash<4' pillow tqdm fsspec \\
        filelock requests pyyaml braceexpand catalogue pyarrow tifffile lightning-utilities \\
        boto3 obstore packaging sortedcontainers bitstring xattr lark wcmatch tzdata jsonschema \\
        opentelemetry-api psutil mmh3 scipy filetype rapidyaml
    /tmp/peers/bin/python -W ignore scripts/peers/write_fixtures.py [mosaic lightning ...]

Each dataset gets an expected.json beside it, the samples that went in (support.plain). The index
of wids and the ustar, GNU and pax archives are written with the standard library: webdataset 1.0
no longer has a writer of the first, and leaves the second to tarfile.
"""

import sys

PEERS = ("mosaic", "lightning", "archives", "tokens")


def main() -> None:
    for peer in sys.argv[1:] or PEERS:
        __import__(peer).write()


if __name__ == "__main__":
    main()
