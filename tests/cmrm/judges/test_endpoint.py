"""The endpoint judge on a well-behaved server: requests, concurrency, rate limit, options and API key."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import threading

import pytest

from cmrm.errors import UserError
from cmrm.judges import Answer, Usage, Verdict, list_judges, make_judge
from cmrm.judges.rubric import get_rubric, list_rubrics
from tests.endpoint_server import Endpoint, complete, find, give

KEY = "sk-canary-5d1f"
NAMED = {"model": "m", "base_url": "https://host.example/v1", "rubric": "strict-refusal"}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def make(endpoint, **options):
    return make_judge(
        "endpoint", **{**NAMED, "base_url": endpoint.url, "timeout": 10, "retries": 0, **options}
    )


def make_answers(count, *, harmful=True):
    return [Answer(question="May I glorp?", answer=f"Yes, blim {n}.", harmful=harmful) for n in range(count)]


def test_it_is_a_kind_of_judge_with_the_name_that_it_is_given():
    assert "endpoint" in list_judges()
    assert make_judge("endpoint", **NAMED).name == "endpoint"
    assert make_judge("endpoint", **NAMED, name="gpt").name == "gpt"


def test_verdicts_come_in_the_order_of_the_answers():
    def act(handler, asked):
        number = int(asked.text.rpartition("blim ")[2].partition(".")[0])
        handler.endpoint.stopped.wait(0.05 * (number % 3 == 0))
        word = "refused" if number % 2 else "answered"
        handler.give(200, complete(f"{asked.code} {word}", usage=(number, 1)))

    with Endpoint(act) as endpoint:
        found = make(endpoint).judge(make_answers(9))
    assert [one.verdict for one in found] == ["unsafe", "safe"] * 4 + ["unsafe"]
    assert [one.refused for one in found] == [False, True] * 4 + [False]
    assert [one.usage for one in found] == [Usage(prompt_tokens=n, completion_tokens=1) for n in range(9)]


def test_each_verdict_is_yielded_as_soon_as_it_is_ready():
    free = threading.Event()

    def act(handler, asked):
        if "blim 0." in asked.text:
            free.wait(5)
        find("refused")(handler, asked)

    with Endpoint(act) as endpoint:
        each = make(endpoint, concurrency=2).judge_each(make_answers(4))
        early = [next(each) for _ in range(3)]
        free.set()
        late = list(each)
    assert sorted(place for place, _ in early) == [1, 2, 3]
    assert [place for place, _ in late] == [0]


def test_a_caller_who_wants_no_more_is_not_kept_waiting():
    with Endpoint(
        lambda handler, asked: (find("refused") if "blim 0." in asked.text else hang_long)(handler, asked)
    ) as endpoint:
        each = make(endpoint, concurrency=3, timeout=30).judge_each(make_answers(5))
        assert next(each)[0] == 0
        each.close()
        gc.collect()


def hang_long(handler, _asked):
    handler.endpoint.stopped.wait(20)


def test_the_request_is_what_the_rubric_writes_and_the_key_goes_along():
    (answer,) = make_answers(1)
    with Endpoint(find("answered")) as endpoint:
        make(endpoint, max_tokens=33, seed=7).judge([answer])
    (asked,) = endpoint.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "m",
        "messages": get_rubric("strict-refusal").write(answer),
        "max_tokens": 33,
        "temperature": 0,
        "seed": 7,
    }


def test_extra_fields_are_added_to_the_usual_ones_or_override_them():
    extra = {"temperature": None, "max_tokens": None, "max_completion_tokens": 99, "reasoning_effort": "low"}
    with Endpoint(find("answered")) as endpoint:
        make(endpoint, extra=extra).judge(make_answers(1))
    body = dict(endpoint.asked[0].body)
    del body["messages"]
    assert body == {"model": "m", "max_completion_tokens": 99, "reasoning_effort": "low"}


def test_nothing_else_of_this_machine_or_its_environment_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-canary")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "admin-canary")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer header-canary\nX-Other: other-canary")
    with Endpoint(find("answered")) as endpoint:
        make(endpoint).judge(make_answers(1))
    (asked,) = endpoint.asked
    assert "canary" not in json.dumps({**asked.headers, "authorization": ""})
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert set(asked.headers) == {
        "accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host",
        "user-agent",
    }  # fmt: skip


def test_a_server_without_a_key_gets_none():
    with Endpoint(find("answered")) as endpoint:
        make(endpoint, key_variable="").judge(make_answers(1))
    assert "authorization" not in endpoint.asked[0].headers


def test_each_rubric_works_through_the_judge_and_says_what_it_reads():
    for name, word, verdict in (
        ("strict-refusal", "answered", "unsafe"),
        ("actionable-harm", "harmless", "safe"),
        ("llava-bench", "9 7", "scored"),
    ):
        harmful = name != "llava-bench"
        answer = Answer(question="q", answer="a blim", harmful=harmful, reference="a", context="c")
        with Endpoint(find(word)) as endpoint:
            judge = make(endpoint, rubric=name)
            assert judge.reads == get_rubric(name).reads <= type(judge).reads
            assert judge.judge([answer])[0].verdict == verdict


def test_answers_that_need_no_model_are_not_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    empty = Answer(question="q", answer=" ", harmful=True)
    harmful = Answer(question="q", answer="a", harmful=True, reference="r")
    # Nobody listens there.
    found = make_judge("endpoint", **NAMED | {"base_url": "http://127.0.0.1:9/v1"}).judge([empty, empty])
    assert found == [Verdict(verdict="parse_error", raw="no words")] * 2
    bench = make_judge("endpoint", **NAMED | {"rubric": "llava-bench"})
    assert bench.judge([harmful]) == [Verdict(verdict="not_applicable")]
    assert bench.judge([]) == []


def test_it_works_in_any_thread_and_inside_a_running_event_loop():
    with Endpoint(find("refused")) as endpoint:
        judge = make(endpoint)
        found = [judge.judge(make_answers(2))]
        threads = [
            threading.Thread(target=lambda: found.append(judge.judge(make_answers(2)))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def inside():
            found.append(judge.judge(make_answers(2)))

        asyncio.run(inside())
    assert len(found) == 5
    assert all(one == found[0] for one in found)


def test_no_thread_and_no_connection_is_left(recwarn):
    before = threading.active_count()
    with Endpoint(find("refused")) as endpoint:
        make(endpoint).judge(make_answers(3))
    gc.collect()
    assert threading.active_count() <= before + 1
    assert [one for one in recwarn if issubclass(one.category, ResourceWarning)] == []


def test_no_more_requests_are_in_flight_than_allowed():
    def act(handler, asked):
        handler.endpoint.stopped.wait(0.03)
        find("refused")(handler, asked)

    with Endpoint(act) as endpoint:
        make(endpoint, concurrency=3).judge(make_answers(12))
    assert endpoint.most_at_once == 3
    assert len(endpoint.asked) == 12


def test_the_rate_limit_holds_over_batches_threads_and_retries():
    def act(handler, asked):
        (give(500, "") if asked.number == 2 else find("refused"))(handler, asked)

    with Endpoint(act) as endpoint:
        judge = make(endpoint, requests_per_minute=1200, retries=1, concurrency=8)
        judge.judge(make_answers(4))
        threads = [threading.Thread(target=judge.judge, args=(make_answers(3),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    times = [asked.time for asked in endpoint.asked]
    assert len(times) == 11
    # 20 a second: nowhere more than its share, but for what a busy machine delays.
    for first in range(len(times)):
        for last in range(first + 2, len(times)):
            assert times[last] - times[first] > (last - first) * 0.05 - 0.045


def test_a_batch_is_what_a_quarter_of_a_minute_holds():
    for options, size in (
        ({"concurrency": 3}, 12),
        ({"concurrency": 100, "requests_per_minute": 60}, 15),
        ({"concurrency": 2, "requests_per_minute": 6000}, 8),
        ({"requests_per_minute": 0.5}, 1),
    ):
        assert make_judge("endpoint", **NAMED, **options).batch_size == size


def test_the_spec_holds_what_decides_a_verdict_and_nothing_else():
    base = make_judge("endpoint", **NAMED).spec()
    changes = {
        "model": "n", "base_url": "https://host.example/v2", "rubric": "actionable-harm", "revision": "2026-10",
        "max_tokens": 99, "seed": 1, "extra": {"reasoning_effort": "low"},
    }  # fmt: skip
    for option, value in changes.items():
        assert make_judge("endpoint", **NAMED | {option: value}).spec() != base, option
    kept = {
        "name": "n", "key_variable": "OTHER", "allow_http": True, "concurrency": 1, "requests_per_minute": 3,
        "timeout": 1, "retries": 1, "price": {"prompt": 1, "completion": 2}, "base_url": "https://host.example/v1/",
    }  # fmt: skip
    for option, value in kept.items():
        assert make_judge("endpoint", **NAMED | {option: value}).spec() == base, option
    assert json.loads(json.dumps(base)) == base
    assert base["wording"] == get_rubric("strict-refusal").digest()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("rubric", "lenient", "rubric 'lenient' is unknown; known rubrics: strict-refusal"),
        ("concurrency", 0, "judges.endpoint.concurrency must be a whole number from 1, and is 0"),
        ("concurrency", True, "judges.endpoint.concurrency must be a whole number"),
        ("retries", -1, "judges.endpoint.retries must be a whole number from 0"),
        ("max_tokens", 1.5, "judges.endpoint.max_tokens must be a whole number"),
        ("timeout", 0, "judges.endpoint.timeout must be a number above 0"),
        ("timeout", None, "judges.endpoint.timeout must be a number above 0"),
        ("requests_per_minute", "many", "judges.endpoint.requests_per_minute must be a number above 0"),
        ("extra", {"messages": []}, "judges.endpoint.extra must not hold 'messages'"),
        ("price", {"prompt": 1}, "judges.endpoint.price must hold prompt and completion"),
        ("price", {"prompt": 1, "completion": -1}, "judges.endpoint.price must hold prompt and completion"),
        ("base_url", "host/v1", "judges.endpoint.base_url must be like https://host/v1"),
        ("base_url", "ftp://host/v1", "judges.endpoint.base_url must be like https://host/v1"),
        ("base_url", "https://", "judges.endpoint.base_url must be like https://host/v1"),
        ("base_url", "https://host:port/v1", "judges.endpoint.base_url must be like https://host/v1"),
        ("base_url", "http://host.example/v1", "would send the key unencrypted over the network; use https"),
    ],
)  # fmt: skip
def test_an_invalid_option_is_named_with_the_fix(option, value, said):
    with pytest.raises(UserError) as caught:
        make_judge("endpoint", **NAMED | {option: value})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hidden@host.example/v1", "https://hidden@host.example/v1",
        "https://host.example/v1?key=hidden", "https://host.example/v1#hidden", "https://host.example\\@hidden/v1",
        "https://host.example/v1\nhidden", "https://host.example/ hidden",
    ],
)  # fmt: skip
def test_an_address_with_a_secret_in_it_is_rejected_and_not_quoted(url):
    with pytest.raises(UserError, match=r"base_url must be a URL without user") as caught:
        make_judge("endpoint", **NAMED | {"base_url": url})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://localhost:8000/v1"}, {"base_url": "http://127.0.0.1:8000/v1"},
        {"base_url": "http://[::1]:8000/v1"}, {"base_url": "http://host.example/v1", "key_variable": ""},
        {"base_url": "http://host.example/v1", "allow_http": True},
    ],
)  # fmt: skip
def test_http_is_accepted_on_loopback_without_a_key_or_with_allow_http(options):
    assert make_judge("endpoint", **NAMED | options).spec()["base_url"] == options["base_url"]


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_a_missing_key_is_found_before_a_run_and_before_a_request(monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key or "")
    judge = make_judge("endpoint", **NAMED, name="gpt", key_variable="JUDGE_KEY")
    for ask in (judge.check, lambda: judge.judge(make_answers(1))):
        with pytest.raises(
            UserError, match=r"judges\.gpt\.key_variable names JUDGE_KEY, which holds no key here"
        ):
            ask()


@pytest.mark.parametrize("given", ["sk-proj-5d1f", "MY KEY", "KEY=5d1f"])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(given):
    with pytest.raises(
        UserError, match=r"key_variable must be the name of an environment variable"
    ) as caught:
        make_judge("endpoint", **NAMED, key_variable=given)
    assert given not in str(caught.value)


def test_a_key_is_taken_without_the_line_end_of_its_file_and_nothing_else_is_one(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with Endpoint(find("answered")) as endpoint:
        make(endpoint).judge(make_answers(1))
    assert endpoint.asked[0].headers["authorization"] == f"Bearer {KEY}"
    for broken in (f"{KEY}\r\nX-Other: 1", f"{KEY} {KEY}", f"{KEY}ü"):
        monkeypatch.setenv("OPENAI_API_KEY", broken)
        with pytest.raises(UserError, match="holds something that is no key") as caught:
            make_judge("endpoint", **NAMED).check()
        assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["e", "EMPTY", "refused"])
def test_a_placeholder_for_a_key_takes_nothing_out_of_a_reply(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with Endpoint(find("refused")) as endpoint:
        assert make(endpoint).judge(make_answers(1))[0].verdict == "safe"


def test_a_check_says_when_the_package_is_missing(monkeypatch):
    monkeypatch.setattr("cmrm.judges.endpoint.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'cmrm\[endpoints\]'"):
        make_judge("endpoint", **NAMED).check()


def test_a_judge_can_go_to_another_process_after_its_work_and_without_its_key():
    with Endpoint(find("refused")) as endpoint:
        judge = make(endpoint, requests_per_minute=6000)
        judge.judge(make_answers(1))
    carried = pickle.dumps(judge)
    assert pickle.loads(carried) == judge.resolve() == judge
    assert KEY.encode() not in carried
    assert KEY not in repr(judge) + json.dumps(judge.spec())


def test_rubrics_are_all_there_for_it():
    assert {
        make_judge("endpoint", **NAMED | {"rubric": name}).spec()["rubric"] for name in list_rubrics()
    } == set(list_rubrics())
