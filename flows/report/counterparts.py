"""What a report says of what stood in for several images, video and sound."""

from __future__ import annotations

from collections.abc import Sequence

from storage.records.manifest import Manifest
from storage.store import Store
from tasks.data.media_words import count_with_media


def describe_counterparts(store: Store, ingested: Sequence[Manifest]) -> list[str]:
    """Say for how many samples the meaningless image was none of the squares that are shown; nothing if it always was.

    Raises `StoreError` if a file is missing.
    """
    count, total = count_with_media(store, ingested)
    if not count:
        return []
    who = "Every sample has" if count == total else f"{count:,} of {total:,} samples have"
    return [
        f"{who} several images, video or sound, and was shown in place of each no such square but a counterpart of "
        "its own size and length: under blank conditions one colour, and silence for sound; under noise conditions "
        "noise of its own."
    ]
