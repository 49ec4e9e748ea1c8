"""Images of a data set are the bytes of the file that was shown, or none: never another file's."""

from __future__ import annotations

import hashlib

from flows.hub.images import RunImages


def test_an_image_that_is_gone_or_another_by_now_is_none_and_counted(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"shown")
    (tmp_path / "secret.png").write_bytes(b"secret")
    shown = hashlib.sha256(b"shown").hexdigest()
    images = RunImages({"mine": root, "none": None})
    assert images.read("mine", "sub/a.png", shown) == {"bytes": b"shown", "path": "a.png"}
    assert images.read("mine", None, None) is None
    assert images.lost == set()
    (root / "sub" / "a.png").write_bytes(b"another")
    # Of one sample's rows it is read once.
    assert images.read("mine", "sub/a.png", shown) == {"bytes": b"shown", "path": "a.png"}
    for dataset, name, digest in (
        ("mine", "b.png", shown),
        ("mine", "sub/a.png", shown),
        ("mine", "../secret.png", hashlib.sha256(b"secret").hexdigest()),
        ("mine", "sub", shown),
        ("none", "sub/a.png", shown),
        ("other", "sub/a.png", shown),
    ):
        assert images.read(dataset, name, digest) is None
        assert (dataset, name) in images.lost
    assert len(images.lost) == 6
