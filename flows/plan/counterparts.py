"""What a plan refuses of the meaningless counterparts of samples with several images, video or sound."""

from __future__ import annotations

from collections.abc import Mapping

from cmrm.errors import UserError
from flows.spec.spec import Spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.data.media_words import count_with_media


def refuse_contrast(spec: Spec, samples: Mapping[str, Manifest], store: Store) -> None:
    """Raise `UserError` for noise of a stated contrast where samples have media, before a model is loaded."""
    if spec.images.noise_contrast is None or not spec.shows_noise():
        return
    from cmrm.prompts.counterparts import NO_CONTRAST

    for name, manifest in samples.items():
        count, _ = count_with_media(store, [manifest])
        if count:
            raise UserError(f"{NO_CONTRAST}, which {count} samples of datasets.{name} show; leave it out.")
