"""How S3 is asked: time limits, retries and the size of an upload's parts."""

from __future__ import annotations

import os
from typing import Any

S3_PROTOCOLS = frozenset({"s3", "s3a"})

# Seconds until a server that does not answer counts as not there: to connect, and between two pieces of an answer.
CONNECT_SECONDS = 5
READ_SECONDS = 15
ATTEMPTS = 5
# s3fs repeats an answer whose body breaks off, which botocore does not; it also repeats all that botocore has given up.
ROUNDS = 2

# One part of a large upload, and how many of them are in memory at once; S3 takes 10,000 parts a file.
PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
MOST_PARTS = 10_000


def connection_options() -> dict[str, Any]:
    """Say how s3fs connects; what AWS_RETRY_MODE and AWS_MAX_ATTEMPTS say comes first.

    Credentials, region and endpoint are left to botocore, which looks into the environment and the AWS files.
    """
    retries: dict[str, Any] = {}
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "standard"
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    config = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": retries}
    # One connection a download makes reading a file one request, and so a view of it at one moment.
    return {"use_listings_cache": False, "max_concurrency": 1, "config_kwargs": config}


def upload_options(size: int) -> dict[str, int]:
    """Say in which parts s3fs uploads a file of `size` bytes: in one, if it is small."""
    return {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS)), "max_concurrency": PARTS_AT_ONCE}
