"""What a remote store's driver says is passed on in one line, without a password that is in a URL of it."""

from __future__ import annotations

import pytest

from storage.backends.remote_errors import remote_explained
from storage.errors import StoreError

URLS = (
    "http://someone:pass+word=@127.0.0.1:9",
    "http://someone:pa/ss+word=@127.0.0.1:9/bucket",
    "https://pass+word=@host/bucket?list-type=2",
    "http://someone:pa%2Fss+word=@[::1]:9000",
)


def explain(error: Exception) -> str:
    with pytest.raises(StoreError) as caught, remote_explained("read", "s3://bucket/store"):
        raise error
    return str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_a_password_in_a_url_is_left_out_and_the_host_is_not(url: str) -> None:
    said = explain(ConnectionError(f'Could not connect to the endpoint URL: "{url}", gave up.'))
    assert said.startswith("cannot read s3://bucket/store: Could not connect to the endpoint URL:")
    assert url.rpartition("@")[2] in said
    assert "word" not in said
    assert "someone" not in said
    assert "pa/ss" not in said


def test_a_password_is_left_out_of_a_text_that_is_cut_and_one_over_several_lines() -> None:
    said = explain(TimeoutError("x" * 280 + " http://me:pass+word=@host\n" + "y" * 400))
    assert "word" not in said
    assert "me:" not in said
    assert len(said.splitlines()) == 1
    assert "…" in said


def test_a_url_without_one_stays_as_it_is() -> None:
    text = "no answer from http://127.0.0.1:9000/bucket/@name, then https://host:443"
    assert text in explain(OSError(text))
