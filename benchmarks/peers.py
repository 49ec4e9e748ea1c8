"""Formats of hidden states that benchmarks/store.py compares: a writer and a reader each.

A writer puts vectors [samples, blocks, width] below a folder and ends with fsync of each of its files and folders. A
reader opens what its writer wrote and returns a function from a block to float32 [samples, width].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import safetensors.numpy

from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table, read_block
from storage.shards.rows import find_files
from storage.shards.writer import ShardWriter
from storage.sql.database import connect
from storage.store import Store
from storage.tables.arrow import table_paths

try:
    import lance
except ImportError:
    lance = None
try:
    import zarr
except ImportError:
    zarr = None

NUMBERS = ("float16", "bfloat16 in float32", "float32")
BATCH = 32
SHARD = 1024


def make_vectors(
    samples: int, blocks: int, width: int, *, seed: int = 0, numbers: str = "float16"
) -> np.ndarray:
    """Random states [samples, blocks, width]; bfloat16's are stored as float32 with sixteen bits of zeros."""
    drawn = np.random.default_rng(seed).standard_normal((samples, blocks, width), np.float32)
    if numbers == "float16":
        return drawn.astype(np.float16)
    return drawn if numbers == "float32" else (drawn.view(np.uint32) & 0xFFFF0000).view(np.float32)


def name(number: int) -> str:
    """Make an unsorted id, as in real data sets."""
    return f"{number * 2_654_435_761 % 2**32:08x}"


def write_numpy(folder: Path, vectors: np.ndarray) -> None:
    """One .npy file."""
    folder.mkdir()
    np.save(folder / "states.npy", vectors)
    sync(folder)


def write_cmrm(folder: Path, vectors: np.ndarray, *, start: int = 0) -> None:
    """A store: batch by batch through the stages' shard writer, a manifest per shard."""
    store = Store.create(folder)
    for shard in range(0, len(vectors), SHARD):
        members = vectors[shard : shard + SHARD]
        batches = (members[batch : batch + BATCH] for batch in range(0, len(members), BATCH))
        write_shard(store, batches, start=start + shard)


def write_shard(store: Store, batches: Iterable[np.ndarray], *, start: int = 0) -> None:
    """One shard, its batches [samples, blocks, width] taken as they come."""
    key = stage_key("embed", {"start": start})
    partitions = {"model": "m", "condition": "image"}
    with ShardWriter(store, "embed", key, "hidden_states", partitions=partitions) as writer:
        for vectors in batches:
            ids = [name(number) for number in range(start, start + len(vectors))]
            start += len(vectors)
            writer.append(
                hidden_states_table(
                    model="m",
                    dataset="d",
                    sample_ids=ids,
                    condition="image",
                    blocks=range(vectors.shape[1]),
                    vectors=vectors,
                )
            )
        written = writer.finish()
        paths = table_paths("hidden_states", key, len(written), **partitions)
        store.commit("embed", key, dict(zip(paths, written, strict=True)))
        writer.discard()


def write_safetensors(folder: Path, vectors: np.ndarray) -> None:
    """One file a batch."""
    folder.mkdir()
    for start in range(0, len(vectors), BATCH):
        tensors = {"states": vectors[start : start + BATCH]}
        safetensors.numpy.save_file(tensors, folder / f"{start:06}.safetensors")
    sync(folder)


def write_zarr(folder: Path, vectors: np.ndarray) -> None:
    """One array, a block of all samples in a chunk, not compressed."""
    samples, _, width = vectors.shape
    array = zarr.create_array(
        store=str(folder),
        shape=vectors.shape,
        dtype=vectors.dtype,
        chunks=(min(samples, SHARD), 1, width),
        compressors=None,
    )
    array[:] = vectors
    sync(folder)


def write_lance(folder: Path, vectors: np.ndarray) -> None:
    """One data set with the same columns, sorted by block, vectors of fixed size."""
    import pyarrow as pa

    samples, blocks, width = vectors.shape
    ids = pa.array([name(number) for number in range(samples)])

    def batches() -> Iterator[pa.RecordBatch]:
        for block in range(blocks):
            numbers = pa.array(np.ascontiguousarray(vectors[:, block]).reshape(-1))
            yield pa.record_batch(
                [
                    ids,
                    pa.repeat(pa.scalar(block, pa.int32()), samples),
                    pa.FixedSizeListArray.from_arrays(numbers, width),
                ],
                schema=schema,
            )

    kind = pa.from_numpy_dtype(vectors.dtype)
    schema = pa.schema([("sample_id", pa.string()), ("block", pa.int32()), ("vector", pa.list_(kind, width))])
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(folder))
    sync(folder)


def sync(folder: Path) -> None:
    """Call fsync on every file and folder below."""
    for place, _, names in os.walk(folder):
        for entry in (*(Path(place, one) for one in names), Path(place)):
            handle = os.open(entry, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def read_numpy(folder: Path) -> Callable[[int], np.ndarray]:
    """A block through a memory map."""
    return lambda block: np.load(folder / "states.npy", mmap_mode="r")[:, block].astype(np.float32)


def read_sql(folder: Path) -> Callable[[int], np.ndarray]:
    """A block through SQL."""
    sql = connect(folder)

    def read(block: int) -> np.ndarray:
        query = "SELECT vector FROM hidden_states WHERE block = $block"
        column = sql.sql(query, params={"block": block}).to_arrow_table()["vector"].combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), -1)

    return read


def read_stage(folder: Path) -> Callable[[int], np.ndarray]:
    """A block as the stages read it."""
    store = Store.open(folder)
    paths = [path for one in store.manifests() for path in find_files(store, one, "hidden_states")]
    return lambda block: read_block(paths, block).vectors[:, 0].astype(np.float32, copy=False)


def read_safetensors(folder: Path) -> Callable[[int], np.ndarray]:
    """A block out of each file, not all of its bytes."""

    def read(block: int) -> np.ndarray:
        found = []
        for path in sorted(folder.iterdir()):
            with safetensors.safe_open(path, "np") as file:
                found.append(file.get_slice("states")[:, block])
        return np.concatenate(found).astype(np.float32)

    return read


def read_zarr(folder: Path) -> Callable[[int], np.ndarray]:
    """A block, which is a chunk."""
    array = zarr.open_array(str(folder), mode="r")
    return lambda block: np.asarray(array[:, block]).astype(np.float32)


def read_lance(folder: Path) -> Callable[[int], np.ndarray]:
    """A block by a filter."""
    dataset = lance.dataset(str(folder))

    def read(block: int) -> np.ndarray:
        column = dataset.to_table(columns=["vector"], filter=f"block = {block}")["vector"].combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)

    return read


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "numpy.save": write_numpy,
    "cmrm": write_cmrm,
    "safetensors a batch": write_safetensors,
    **({"zarr": write_zarr} if zarr else {}),
    **({"Lance": write_lance} if lance else {}),
}
# The writer whose files each reader reads.
MEMORY_MAP = "memory map of .npy"
READERS: dict[str, tuple[str, Callable[[Path], Callable[[int], np.ndarray]]]] = {
    MEMORY_MAP: ("numpy.save", read_numpy),
    "cmrm, SQL": ("cmrm", read_sql),
    "cmrm, read_block": ("cmrm", read_stage),
    "safetensors a batch": ("safetensors a batch", read_safetensors),
    "zarr": ("zarr", read_zarr),
    "Lance": ("Lance", read_lance),
}
