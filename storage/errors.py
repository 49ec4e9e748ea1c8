"""Errors of a store, with messages that name the file and the fix."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class StoreError(ValueError):
    """The store cannot do what was requested: the message says what failed, where, and the fix."""


class NotAFileError(StoreError):
    """The path of a stored file is not a regular file, such as a FIFO, on which a read would block."""


class OtherReleaseError(StoreError):
    """A record has another schema version than this release reads."""


class PartsGoneError(StoreError):
    """Partial files of this writer were removed, as another worker does after committing the same key."""


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
    """Turn an OSError inside the block into a StoreError that names the file and the fix.

    A MemoryError becomes a StoreError too, so that it is not taken for an OOM of the model: a retry with smaller
    batches would lose the rows being written. Committed files are not affected.
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
