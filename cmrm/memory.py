"""Tell that a model ran out of memory, and give back what it held."""

from __future__ import annotations

import gc

import torch

# What torch and its libraries say where they raise a plain RuntimeError: CUDA, HIP and Metal in words, the CPU's
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
    """Whether the error says that memory of the device or of the machine did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release_memory() -> None:
    """Give freed memory back to the device.

    Call it outside the `except` block: there, the error's traceback still holds the tensors of all frames it passed.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
