"""S3 settings: timeouts, retries and the part size of multipart uploads."""

from __future__ import annotations

import os
from typing import Any

S3_PROTOCOLS = frozenset({"s3", "s3a"})

# Timeouts in seconds: to connect, and between two chunks of an answer.
CONNECT_SECONDS = 5
READ_SECONDS = 15
ATTEMPTS = 5
# s3fs retries an answer whose body breaks off, which botocore does not, and everything botocore gave up on.
ROUNDS = 2

# Part size of a multipart upload, and how many parts are in memory at once; S3 allows 10,000 parts per file.
PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
MOST_PARTS = 10_000


def connection_options() -> dict[str, Any]:
    """Make the connection options of s3fs; AWS_RETRY_MODE and AWS_MAX_ATTEMPTS take precedence.

    Credentials, region and endpoint are left to botocore, which reads the environment and the AWS files.
    """
    retries: dict[str, Any] = {}
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "standard"
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    config = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": retries}
    # With one connection per download, reading a file is one request, and so consistent.
    return {"use_listings_cache": False, "max_concurrency": 1, "config_kwargs": config}


def upload_options(size: int) -> dict[str, int]:
    """Choose the part size in which s3fs uploads a file of `size` bytes; a small file is one part."""
    return {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS)), "max_concurrency": PARTS_AT_ONCE}
