"""The row of a listed type, derived from its model as if no table had one."""

from __future__ import annotations

from typing import Any


def derive_again(vlm: Any) -> dict[str, Any]:
    """Derive the row of a model as if its type were in no table: what it finds, or why it finds none.

    What people wrote for the type, its templates and system line, is given.
    """
    from cmrm.errors import UserError
    from cmrm.models.derived_family import derive_model
    from cmrm.models.families import Family

    row, sizes = vlm.family, compare_two_sizes(vlm)
    written = {name: getattr(row, name) for name in ("system", "template", "text_only_form")}
    given = Family(model_type="unlisted", blocks="", image_token="", **written)
    try:
        own = derive_model(vlm.model, vlm.processor, where="tiny", family=given)
    except UserError as error:
        return {"error": str(error), "two_sizes": sizes}
    return {
        "error": None,
        "two_sizes": sizes,
        "blocks": list(own.blocks) == list(vlm.blocks),
        "image_token": own.image_token_id == vlm.image_token_id,
        "image_only_blocks": own.image_only_blocks == vlm.image_only_blocks,
        **{
            one: getattr(own.family, one)
            for one in ("positions", "first_position", "tiles_together", "mixed_batches", "shares")
        },
    }


def compare_two_sizes(vlm: Any) -> str | None:
    """What is wrong with the states of images of two sizes in one batch, under the type's own row; None if nothing."""
    from cmrm.doctor.admission import check_two_sizes
    from cmrm.doctor.fixture import CheckFailedError, ModelFixture

    try:
        check_two_sizes(ModelFixture(vlm=vlm, seed=0, image_size=vlm.family.image_size))
    except CheckFailedError as error:
        return str(error)
    return None
