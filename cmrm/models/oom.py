"""OOM: detect an out-of-memory error of torch or the host, and free the memory."""

from __future__ import annotations

import gc

import torch

# Messages of torch and its libraries that raise a plain RuntimeError on OOM: CUDA, HIP and Metal, the CPU's
# allocators, then cuBLAS and cuDNN (before version 9 and since).
SIGNS = (
    "out of memory",
    "DefaultCPUAllocator: ",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
    "HOST_ALLOCATION_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is an OOM of the device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release_memory() -> None:
    """Return freed memory to the device.

    Call it outside the `except` block: inside, the error's traceback still holds the tensors of all its frames.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
