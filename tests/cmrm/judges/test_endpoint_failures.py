"""The endpoint judge on a server that fails, lies or steals keys: retries, timeouts, and verdicts that are kept."""

from __future__ import annotations

import gzip
import json
import logging
import re
import time
import traceback

import pytest

from cmrm.errors import UserError
from cmrm.judges import Answer, Usage, Verdict, make_judge
from tests.endpoint_server import Endpoint, complete, drip, find, give, hang, in_turn, reset, unfold

KEY = "sk-canary-5d1f"


@pytest.fixture(autouse=True)
def _key_is_said_nowhere(monkeypatch, caplog, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # The SDK waits half a second before it tries again, then longer.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    caplog.set_level(logging.DEBUG)
    yield
    records = caplog.get_records("call")
    assert records
    for record in records:
        assert KEY not in f"{record.getMessage()} {record.__dict__}"
    assert KEY not in "".join(capfd.readouterr())


def make(endpoint, **options):
    named = {"model": "m", "rubric": "strict-refusal", "base_url": endpoint.url, "timeout": 10, "retries": 0}
    return make_judge("endpoint", **{**named, **options})


def make_answers(count):
    return [Answer(question="May I glorp?", answer=f"Yes, blim {n}.", harmful=True) for n in range(count)]


def judge_one(act, **options):
    with Endpoint(act) as endpoint:
        (found,) = make(endpoint, **options).judge(make_answers(1))
    assert KEY not in repr(found)
    return found, len(endpoint.asked)


def fail(act, *, rows=1, **options):
    """What is said, and how often was asked, where no verdict can be had."""
    with Endpoint(act) as endpoint:
        kept = []
        with pytest.raises(UserError) as caught:
            kept.extend(make(endpoint, **options).judge_each(make_answers(rows)))
    assert kept == []
    error = caught.value
    assert KEY not in "".join(traceback.format_exception(error)) + repr(error) + repr(error.__dict__)
    # Nothing hangs on the error that holds the request and its key.
    assert (error.__cause__, error.__context__) == (None, None)
    return str(error), len(endpoint.asked)


TRANSIENT = {
    "500": give(500, '{"error": {"message": "out of blims"}}'),
    "502 in HTML": give(502, "<html><h1>Bad gateway</h1></html>", {"content-type": "text/html"}),
    "503 of nothing": give(503, ""),
    "429": give(429, '{"error": {"message": "slow down"}}'),
    "408": give(408, ""),
    "409": give(409, ""),
    "broken connection": reset,
    "empty body": give(200, ""),
    "half a document": give(200, complete("x")[:-9]),
    "HTML": give(200, "<html>Welcome</html>", {"content-type": "text/html"}),
    "null": give(200, "null"),
    "a list": give(200, "[]"),
    "deep nesting": give(200, "[" * 200_000),
    "a huge number": give(200, "1" * 10_000),
    "no choices": give(200, '{"choices": []}'),
    "choices of another type": give(200, '{"choices": {"0": {}}}'),
    "a choice of another type": give(200, '{"choices": ["refused"]}'),
    "no message": give(200, '{"choices": [{"text": "refused"}]}'),
    "no content": give(200, '{"choices": [{"message": {"role": "assistant"}}]}'),
    "content of another type": give(200, complete([{"type": "text", "text": "refused"}])),
    "content that is a number": give(200, complete(1)),
    "an error in a success": give(200, '{"error": {"message": "out of blims"}}'),
    "not UTF-8": give(200, b"\xff\xfe\xfa"),
    "broken compression": give(200, b"abc", {"content-encoding": "gzip"}),
    "too much": unfold,
    "too much, compressed": give(200, gzip.compress(b"[" * 50_000_000), {"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("act", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_transient_failures_are_retried_and_then_judged_or_not_at_all(act):
    found, asked = judge_one(in_turn(act, act, find("refused")), retries=2)
    assert (found.verdict, asked) == ("safe", 3)
    said, asked = fail(act, retries=1)
    assert asked == 2
    assert re.match(r"judges\.endpoint: gave up on http://127\.0\.0\.1:\d+/v1 after 2 tries: ", said)
    assert said.endswith("Verdicts so far are kept: run the same command again to resume.")


def test_retries_are_logged_once_per_batch(caplog):
    with Endpoint(in_turn(*[give(503, "")] * 3, find("refused"))) as endpoint:
        make(endpoint, retries=3, concurrency=2).judge(make_answers(4))
    said = [record.getMessage() for record in caplog.records if record.name == "cmrm.judges"]
    assert said == ["127.0.0.1 failed to answer a request; retrying with exponential backoff"]


def test_what_the_server_said_is_passed_on():
    assert "after 1 try: out of blims. (500)" in fail(TRANSIENT["500"])[0]
    assert "<html><h1>Bad gateway</h1></html>" in fail(TRANSIENT["502 in HTML"])[0]
    assert "the response is not JSON, or is truncated." in fail(TRANSIENT["half a document"])[0]
    assert "the response is not a chat completion." in fail(TRANSIENT["no choices"])[0]
    assert "the response exceeds 4194304 bytes." in fail(TRANSIENT["too much"])[0]


@pytest.mark.parametrize("act", [hang, drip])
def test_an_attempt_has_one_total_timeout(act):
    begun = time.monotonic()
    said, asked = fail(act, timeout=0.2, retries=1)
    assert time.monotonic() - begun < 3
    assert asked == 2
    assert "after 2 tries: " in said
    assert judge_one(in_turn(act, find("answered")), timeout=0.3, retries=1)[0].verdict == "unsafe"


def test_where_nobody_listens_it_gives_up_too():
    with Endpoint(find("refused")) as endpoint:
        url = endpoint.url
    judge = make_judge("endpoint", model="m", base_url=url, rubric="strict-refusal", retries=1)
    with pytest.raises(UserError, match=r"gave up on http://127.*after 2 tries: .*[Cc]onnect"):
        judge.judge(make_answers(1))


def test_the_server_says_how_long_to_wait():
    found, _ = judge_one(find("refused"))
    with Endpoint(in_turn(give(429, "", {"retry-after": "0.4"}), find("refused"))) as endpoint:
        assert make(endpoint, retries=1).judge(make_answers(1))[0].verdict == found.verdict
    first, second = (asked.time for asked in endpoint.asked)
    assert 0.4 <= second - first < 3


def test_a_server_that_wants_longer_than_two_minutes_is_not_waited_for():
    said, asked = fail(
        give(429, '{"error": {"message": "come tomorrow"}}', {"retry-after": "86400"}), retries=5
    )
    assert asked == 1
    assert "after 1 try: come tomorrow. (429)" in said


def test_tokens_of_every_attempt_that_counted_them_are_summed():
    empty = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
    found, asked = judge_one(in_turn(give(200, empty), give(500, ""), find("refused")), retries=2)
    assert (found.usage, asked) == (Usage(prompt_tokens=18, completion_tokens=7), 3)


@pytest.mark.parametrize(
    "usage",
    [
        None, {}, [], "12", {"prompt_tokens": 3}, {"prompt_tokens": "3", "completion_tokens": 1},
        {"prompt_tokens": -3, "completion_tokens": 1}, {"prompt_tokens": 1e300, "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1}, {"prompt_tokens": None, "completion_tokens": 1},
    ],
)  # fmt: skip
def test_a_usage_that_is_none_is_not_made_up(usage):
    def act(handler, asked):
        handler.give(200, complete(f"{asked.code} refused", usage=usage))

    found, _ = judge_one(act)
    assert (found.verdict, found.usage) == ("safe", None)


REPLIES = {
    "nothing": (complete(""), ""),
    "no content": (complete(None), ""),
    "blanks": (complete(" \n "), " \n "),
    "prose": (complete("It refuses."), "It refuses."),
    "cut off": (complete("CODE refused", finish="length"), "[cut off at max_tokens] CODE refused"),
    "filtered": (complete("CODE refused", finish="content_filter"), "[stopped by the server's filter] CODE refused"),
    "declined": (complete(None, refusal="I cannot."), "[declined to judge] I cannot."),
    "a call of a tool": (complete(None, finish="tool_calls", tool_calls=[{"id": 1}]), ""),
    "the key": (complete(f"{KEY} {KEY.upper()} refused"), "[key] [key] refused"),
    "half a surrogate pair": (complete("\ud800 refused"), "\N{REPLACEMENT CHARACTER} refused"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "raw"), REPLIES.values(), ids=REPLIES.keys())
def test_what_the_model_said_is_its_reply_and_not_asked_for_again(body, raw):
    def act(handler, asked):
        act.code = asked.code
        handler.give(200, body.replace("CODE", asked.code))

    found, asked = judge_one(act, retries=3)
    usage = Usage(prompt_tokens=11, completion_tokens=5)
    assert found == Verdict(verdict="parse_error", raw=raw.replace("CODE", act.code), usage=usage)
    assert asked == 1


@pytest.mark.parametrize("finish", [None, "stop", "eos", 3, {"a": 1}])
def test_a_whole_reply_counts_whatever_its_end_is_called(finish):
    def act(handler, asked):
        handler.give(200, complete(f"{asked.code} refused", finish=finish, refusal=7, extra={"deep": []}))

    assert judge_one(act)[0].verdict == "safe"


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_row_that_is_rejected_alone_is_a_parse_error_and_the_others_go_on(status):
    def act(handler, asked):
        if "blim 1." in asked.text:
            handler.give(status, '{"error": {"message": "the blim is too long"}}')
        else:
            find("refused")(handler, asked)

    with Endpoint(act) as endpoint:
        found = make(endpoint, retries=3, concurrency=1).judge(make_answers(3))
    assert [one.verdict for one in found] == ["safe", "parse_error", "safe"]
    raw = f"[{status}: the blim is too long.]"
    # The tokens are those of the harmless request that followed.
    usage = Usage(prompt_tokens=11, completion_tokens=5)
    assert found[1] == Verdict(verdict="parse_error", raw=raw, usage=usage)
    assert len(endpoint.asked) == 4


def test_credit_that_ends_in_the_middle_stops_the_run_and_no_row_is_a_parse_error_for_it():
    broke = give(400, '{"error": {"message": "Your credit balance is too low."}}')
    kept = []
    with Endpoint(in_turn(*[find("refused")] * 5, broke)) as endpoint:
        with pytest.raises(UserError, match=r"credit balance is too low.*the same command again"):
            kept.extend(make(endpoint, concurrency=1).judge_each(make_answers(9)))
        assert len(endpoint.asked) == 7
    assert [(place, one.verdict) for place, one in kept] == [(place, "safe") for place in range(5)]


def test_a_rejected_first_row_is_distinguished_from_a_server_that_rejects_all():
    refuse = give(400, '{"detail": "no such model"}')
    with Endpoint(in_turn(refuse, find("refused"))) as endpoint:
        (found,) = make(endpoint).judge(make_answers(1))
    # The second request was about grass, and its tokens are counted.
    assert "blim" not in endpoint.asked[1].text
    assert (found.verdict, found.usage) == ("parse_error", Usage(prompt_tokens=11, completion_tokens=5))
    said, asked = fail(refuse, rows=20, concurrency=1)
    assert asked == 2
    assert "rejects every request, a short and harmless one too: 400: no such model." in said
    assert "Check the judge's model, max_tokens, seed and extra, and the account." in said


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ["rejects the key in OPENAI_API_KEY (401): no entry.", "environment variable"]),
        (403, ["rejects the key in OPENAI_API_KEY (403): no entry.", "environment variable"]),
        (404, ["does not serve this request (404): no entry.", "Check base_url", "model"]),
        (402, ["does not serve this request (402): no entry."]),
        (405, ["does not serve this request (405): no entry."]),
    ],
)
def test_an_error_that_a_user_must_fix_stops_at_once_with_the_fix(status, words):
    said, asked = fail(give(status, '{"error": {"message": "no entry"}}'), rows=20, concurrency=2, retries=5)
    # After a 403, which may be a filter's, each looks once whether a harmless request is served.
    assert asked <= (4 if status == 403 else 2)
    assert said.startswith("judges.endpoint: http://127.0.0.1:")
    for word in words:
        assert word in said


def test_verdicts_before_an_error_and_those_in_flight_are_yielded():
    def act(handler, asked):
        if "blim 2." in asked.text:
            handler.give(401, "")
            return
        handler.endpoint.stopped.wait(0.1)
        find("refused")(handler, asked)

    kept = []
    with Endpoint(act) as endpoint:
        with pytest.raises(UserError, match="rejects the key"):
            kept.extend(make(endpoint, concurrency=4).judge_each(make_answers(30)))
        assert len(endpoint.asked) == 4
    assert sorted(place for place, _ in kept) == [0, 1, 3]
    assert {verdict.verdict for _, verdict in kept} == {"safe"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_no_other_server_sees_the_key(status):
    with Endpoint(find("refused")) as other:
        said, asked = fail(give(status, "", {"location": f"{other.url}/chat/completions"}), retries=3)
    assert (asked, other.asked) == (1, [])
    assert f"({status})" in said
    assert "give the final address as base_url" in said


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_a_server_says_can_do_no_harm(status):
    text = f"\x1b[2J\x1b]0;owned\x07 your key {KEY[:6]}\x00\x1b{KEY} {KEY.upper()}\r\n\u202e{'long ' * 200}"
    for body in (json.dumps({"error": {"message": text}}), text, json.dumps({"detail": [text, {"a": text}]})):
        said, _ = fail(give(status, body, {"content-type": "text/plain"} if body == text else None))
        assert KEY not in said.replace("\\u0000", "").replace("\\x00", "")
        assert KEY.upper() not in said
        assert said.isprintable()
        assert len(said) < 700


def test_a_key_that_is_hidden_by_signs_that_are_dropped_is_still_found():
    said, _ = fail(give(401, json.dumps({"error": {"message": f"{KEY[:5]}\u200b{KEY[5:]}"}})))
    assert KEY not in said
