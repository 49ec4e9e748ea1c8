"""What goes wrong in a store, said so that a person can mend it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class StoreError(ValueError):
    """The store cannot do what was asked: the message says what, where, and how to mend it."""


class OtherReleaseError(StoreError):
    """What was read has another schema version than this release reads."""


class PartsGoneError(StoreError):
    """Parts that this writer relied on were removed, which a worker does after committing the same key."""


_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "ask for more quota or free some space",
    errno.EROFS: "remount the file system for writing, or choose another place for the store",
    errno.EACCES: "give yourself access to it, or choose another place for the store",
    errno.EPERM: "give yourself access to it, or choose another place for the store",
    errno.ENOTDIR: "move away the file that stands where the store needs a folder",
    errno.EEXIST: "move away the file that stands where the store needs a folder",
    errno.EISDIR: "move away the folder that stands where the store needs a file",
    errno.ENAMETOOLONG: "shorten the name",
    errno.EIO: "check the disk for faults",
    errno.ESTALE: "mount the disk again",
    errno.ENOTCONN: "mount the disk again",
    errno.ENOENT: "check that the disk is still mounted and that nothing else cleans this folder",
}


@contextmanager
def explained(action: str, where: str) -> Iterator[None]:
    """Turn an operating system's error into one that names the file and the fix.

    Raises StoreError for any OSError inside the block, and for a MemoryError, which nobody may take for a model's: with
    smaller batches the rows that were being written would be gone. What was committed before stays as it was.
    """
    try:
        yield
    except MemoryError as error:
        raise StoreError(
            f"cannot {action} {where}: this process ran out of memory ({str(error) or 'MemoryError'}). Free some "
            "memory or give a smaller shard_size, then give the same command again; what is already in the store is "
            "unharmed."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        fix = _FIXES.get(error.errno or 0, "check the disk or the connection")
        raise StoreError(
            f"cannot {action} {where}: {reason}. To go on, {fix}, then give the same command again; "
            "what is already in the store is unharmed."
        ) from error
