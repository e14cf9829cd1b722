"""An endpoint that misbehaves: what is asked again, how long is waited, what is given up, and that no key gets out."""

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from harness.backends.openai_connection import _retry_after
from harness.errors import UserError
from harness.judge.endpoint import Endpoint, Price, estimate_tokens, max_verdict_tokens
from harness.judge.reply import Reply
from tests.endpoint import Wrong, right, serving
from tests.judged import endpoint

KEY = "sk-secret-1234567890"
PASSING = ["slow", "dropped", "429", "429 soon", "429 dated", "500", "503", "broken", "page", "list", "silent", "empty"]


def asking(text: str = "rate <{7}>") -> list[dict[str, str]]:
    return [{"role": "system", "content": "Judge."}, {"role": "user", "content": text}]


def first(count: int, kind: str) -> Wrong:
    return lambda prompt, number: kind if number < count else ""


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_asked_again(kind: str) -> None:
    with serving(first(2, kind)) as server:
        reply = endpoint(server.url, KEY, timeout=0.5).ask(asking())
        assert reply == Reply("A good answer. Rating: [[7]]", None, 3, 100, 10)
        assert list(server.seen.values()) == [3]


@pytest.mark.parametrize("kind", [*PASSING[1:]])
def test_what_does_not_pass_is_a_failure_after_all_tries(kind: str) -> None:
    with serving(first(99, kind)) as server:
        reply = endpoint(server.url, KEY, tries=4).ask(asking())
        assert (reply.text, reply.tries, sum(server.seen.values())) == (None, 4, 4)
        assert reply.error
        assert KEY not in reply.error


def test_what_cannot_pass_is_not_asked_again() -> None:
    with serving(first(99, "400")) as server:
        assert endpoint(server.url, KEY).ask(asking()) == Reply(error="400: no, not with Bearer [key]", tries=1)
    with serving(first(99, "429 in an hour")) as server:
        assert endpoint(server.url, KEY).ask(asking()).tries == 1


@pytest.mark.parametrize("kind", ["401", "404"])
def test_a_refused_key_or_model_ends_the_judging_at_once(kind: str) -> None:
    with serving(first(99, kind)) as server, pytest.raises(UserError, match=f"refuses to judge.*{kind}") as raised:
        endpoint(server.url, KEY).answer([asking(f"<{{{n}}}>") for n in range(50)], lambda number, reply: None)
    assert KEY not in str(raised.value)
    assert sum(server.seen.values()) <= 8  # those that were under way


def test_a_refusal_loses_nothing_that_was_answered() -> None:
    with serving(lambda prompt, number: "401" if "{3}" in prompt else "") as server:
        found = dict[int, Reply]()
        with pytest.raises(UserError, match="refuses"):
            endpoint(server.url, concurrency=1).answer([asking(f"<{{{n}}}>") for n in range(9)], found.__setitem__)
    assert sorted(found) == [0, 1, 2]


def test_nobody_listens() -> None:
    with serving() as server:
        url = server.url
    reply = endpoint(url, tries=3).ask(asking())
    assert (reply.text, reply.tries) == (None, 3)


def waits(kind: str) -> list[float]:
    found = list[float]()
    with serving(first(99, kind)) as server:
        judge = endpoint(server.url, tries=9)
        judge.connection.pause = found.append
        judge.ask(asking())
    return found


def test_waits_double_up_to_a_minute_and_differ() -> None:
    for number, seconds in enumerate(found := waits("500")):
        assert min(60, 2.0 ** number) / 2 <= seconds <= min(60, 2.0 ** number)
    assert len(found) == 8
    assert found != waits("500")


@pytest.mark.parametrize(("headers", "seconds"), [
    ({"retry-after": "7"}, 7), ({"retry-after": "0.5"}, 0.5), ({}, None), ({"retry-after": "soon"}, None),
    ({"retry-after": "-3"}, None), ({"retry-after": "nan"}, None), ({"retry-after": "inf"}, None),
    ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0), ({"retry-after": ""}, None),
])
def test_what_an_endpoint_asks_to_wait(headers: Mapping[str, str], seconds: float | None) -> None:
    assert _retry_after(headers) == seconds


def test_a_date_to_wait_for() -> None:
    import email.utils
    import time

    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert _retry_after({"retry-after": date}) == pytest.approx(100, abs=5)


def test_no_sooner_than_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.backends.openai_connection._retry_after", lambda headers: 90.0)
    assert waits("429") == [90.0] * 8


def test_five_failures_in_a_row_end_it() -> None:
    with serving(first(99, "500")) as server:
        found = dict[int, Reply]()
        asked = [asking(f"<{{{n}}}>") for n in range(40)]
        reason = endpoint(server.url, concurrency=1, tries=2).answer(asked, found.__setitem__)
    assert reason is not None
    assert reason.startswith("5 requests in a row failed, the last with: 500: no")
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_failures_that_are_not_in_a_row_do_not() -> None:
    with serving(lambda prompt, number: "400" if "3}" in prompt or "7}" in prompt else "") as server:
        found = dict[int, Reply]()
        asked = [asking(f"<{{{n}}}>") for n in range(60)]
        assert endpoint(server.url, concurrency=3).answer(asked, found.__setitem__) is None
    assert {number for number, reply in found.items() if reply.error} == {n for n in range(60) if n % 10 in (3, 7)}
    assert all(reply.text == f"A good answer. Rating: [[{n}]]" for n, reply in found.items() if not reply.error)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_at_a_time_than_allowed(concurrency: int) -> None:
    with serving() as server:
        asked = [asking(f"<{{{n}}}>") for n in range(30)]
        assert endpoint(server.url, concurrency=concurrency).answer(asked, lambda number, reply: None) is None
        assert server.busiest <= concurrency
        assert sum(server.seen.values()) == 30


@pytest.mark.parametrize(("most", "answered"), [(0.0, 0), (2.0, 7), (100.0, 30)])
def test_no_more_is_spent_than_allowed(most: float, answered: int) -> None:
    """A request may cost 0.667 (11 bytes and 2 x 8 tokens read, 64 written), in fact it costs 0.2 (100 and 10).

    After 7 of them 1.4 are spent, and an eighth might cost more than the 0.6 that are left of 2.
    """
    price = Price(1e6 * 0.1 / 100, 1e6 * 0.1 / 10, most)
    assert (estimate_tokens(asking("<{9}>")), max_verdict_tokens({"max_tokens": 64})) == (1 + 1 + 16, 64)
    with serving() as server:
        asked = [asking("<{9}>") for n in range(30)]
        reason = endpoint(server.url, concurrency=4, price=price).answer(asked, lambda number, reply: None)
        assert sum(server.seen.values()) == answered
    assert (reason is None) == (answered == 30)


def test_prices_are_those_of_a_million_tokens() -> None:
    assert Price(30, 60).of(1_000_000, 500_000) == 60
    assert Price(30).of(1, 1) is None
    assert Price().of(1, 1) is None


def test_settings_are_sent_and_null_takes_one_out() -> None:
    with serving() as server:
        judge = Endpoint("m", server.url + "/", None, {"temperature": None, "max_completion_tokens": 9, "seed": 1})
        judge.ask(asking())
        assert server.bodies == [{"model": "m", "messages": asking(), "max_completion_tokens": 9, "seed": 1}]
        assert judge.where == server.url


def test_a_server_that_sends_the_key_back_does_not_get_it_into_a_verdict() -> None:
    with serving(first(1, "key")) as server:
        reply = endpoint(server.url, KEY).ask(asking())
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert reply.text == "Rating: [[7]] Bearer [key]"


@pytest.mark.parametrize("url", ["gpt-4", "ftp://host/v1", "https://user:pass@host/v1", "https://host/v1?api_key=1"])
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="--base-url must"):
        endpoint(url)


def test_without_the_client_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match="pip install 'openai>=2'"):
        endpoint("http://localhost/v1")


def test_usage_that_is_missing_or_wrong_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        def __init__(self, usage: Any) -> None:
            self.choices = [type("C", (), {"message": type("M", (), {"content": "[[1]]"})})]
            self.usage = usage

    judge = endpoint("http://localhost/v1")
    assert judge._reply(Found(None)) == Reply("[[1]]")
    assert judge._reply(Found(type("U", (), {"prompt_tokens": "x", "completion_tokens": -4}))) == Reply("[[1]]")
    assert right("", 0) == ""
