"""What a stream makes of an answer: bursts at their times, tokens by their ids or by usage, never by chunks."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends.backend import Generated
from harness.backends.openai_stream import Reply, read

Parts = list[tuple[float, bytes]]


def event(text: str = "", ids: Sequence[int] | None = None, reason: str | None = None, index: int = 0,
          stop: str | int | None = None) -> dict[str, Any]:
    told = {} if ids is None else {"token_ids": list(ids)}
    return {"choices": [{"index": index, "text": text, "finish_reason": reason, "stop_reason": stop, **told}]}


def usage(written: int, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": written}, **more}


def stream(*events: tuple[float, dict[str, Any]], end: bytes = b"data: [DONE]\n\n") -> Parts:
    last = events[-1][0] if events else 0.0
    return [*((at, f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()) for at, value in events), (last, end)]


def answer(*events: tuple[float, dict[str, Any]], wanted: int = 0) -> Generated:
    return read(stream(*events), wanted).answer()


def near(values: Sequence[float]) -> Any:
    return pytest.approx(list(values), abs=1e-9)


def test_tokens_are_counted_by_their_ids_and_bursts_by_their_times() -> None:
    found = answer((0.1, event("a", [5])), (0.3, event("bc", [6, 7])), (0.35, event("", [2], "stop")), (0.35, usage(4)))
    assert (found.tokens, found.stop, found.text) == ([5, 6, 7, 2], "eos", None)
    assert (found.steps.tokens, found.steps.seconds) == ([1, 2, 1], near([0.1, 0.2, 0.05]))
    assert found.steps.forwards == found.steps.drafted == found.steps.positions == []  # nobody told


def test_without_ids_usage_counts_and_what_chunks_hold_is_spread() -> None:
    found = answer((0.1, event("a")), (0.3, event("bc")), (0.6, event("de")), (0.6, event("", None, "length")),
                   (0.6, usage(5)))
    assert (found.tokens, found.text, found.stop) == ([], "abcde", "length")
    assert (found.steps.tokens, found.steps.seconds) == ([1, 2, 2], near([0.1, 0.2, 0.3]))


def test_more_chunks_than_tokens_are_bursts_that_wait() -> None:
    found = answer((0.1, event("a")), (0.2, event("b")), (0.3, event("c")), (0.4, event("d", None, "length")),
                   (0.4, usage(3)))
    assert (sum(found.steps.tokens), len(found.steps.tokens)) == (3, 4)
    assert found.steps.seconds == near([0.1] * 4)


@pytest.mark.parametrize(("counted", "tokens", "seconds"), [(4, [1, 1, 1, 1], [0.1, 0.1, 0.1, 0.2]),
                                                            (3, [1, 1, 1], [0.1, 0.1, 0.1])])
def test_an_end_token_without_text_is_there_when_usage_counts_it(counted: int, tokens: list[int],
                                                                 seconds: list[float]) -> None:
    found = answer((0.1, event("a")), (0.2, event("b")), (0.3, event("c")), (0.5, event("", None, "stop")),
                   (0.5, usage(counted)))
    assert (found.steps.tokens, found.steps.seconds) == (tokens, near(seconds))
    assert found.stop == "eos"


def test_an_end_by_length_brings_no_token_of_its_own() -> None:
    found = answer((0.1, event("a")), (0.2, event("bcd")), (0.3, event("", None, "length")), (0.3, usage(4)))
    assert (found.steps.tokens, found.steps.seconds) == ([1, 3], near([0.1, 0.1]))


def test_answers_without_text() -> None:
    silent = answer((0.2, event("", None, "stop")), (0.2, usage(1)))
    assert (silent.steps.tokens, silent.steps.seconds, silent.text) == ([1], near([0.2]), "")
    none = answer((0.2, event("", None, "stop")), (0.2, usage(0)))
    assert (none.steps.tokens, none.steps.seconds) == ([], [])


def test_a_stop_string_is_told_from_the_end_token() -> None:
    assert answer((0.1, event("a", [5], "stop", stop="zz"))).stop == "stop"
    assert answer((0.1, event("a", [5], "stop", stop=128009))).stop == "stop"
    assert answer((0.1, event("a", [5], "abort"))).stop == "unknown"


def test_of_several_choices_one_is_wanted_and_usage_adds_up_all() -> None:
    whole = {"choices": [event("a", [5, 6], "length")["choices"][0], event("b", [7, 8], "length", 1)["choices"][0]],
             "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    for wanted, ids in ((0, [5, 6]), (1, [7, 8])):
        found = read([(0.7, json.dumps(whole, indent=2).encode())], wanted).answer()
        assert (found.tokens, found.steps.tokens, found.steps.seconds) == (ids, [2], [0.7])


def test_what_a_cache_held_of_the_prompt_is_what_usage_says() -> None:
    said = usage(1)
    said["usage"]["prompt_tokens_details"] = {"cached_tokens": 4}
    assert answer((0.1, event("a", [5], "length")), (0.1, said)).shared == 4
    said["usage"]["prompt_tokens_details"] = {"cached_tokens": None, "audio_tokens": 0}
    assert answer((0.1, event("a", None, "length")), (0.1, said)).shared == 0


def drafts(**more: Any) -> dict[str, Any]:
    return {"metrics": {"speculative_decoding": {"acceptance_histogram": [1, 0, 1], "num_draft_tokens": 6, **more}}}


def test_drafts_are_those_that_the_server_counts_for_the_request() -> None:
    steps = {"per_step_accepted": [2, 0], "per_step_drafted": [3, 3]}
    found = answer((0.1, event("a", [5])), (0.3, event("bcd", [6, 7, 8])), (0.4, event("e", [9], "length")),
                   (0.4, usage(5, **drafts(**steps)))).steps
    assert (found.tokens, found.drafted, found.accepted) == ([1, 3, 1], [0, 3, 3], [0, 2, 0])
    assert found.seconds == near([0.1, 0.2, 0.1])
    assert found.forwards == found.draft_forwards == []


def test_where_chunks_are_not_its_steps_later_times_are_shared() -> None:
    steps = {"per_step_accepted": [2, 0], "per_step_drafted": [3, 3]}
    found = answer((0.1, event("ab", [5, 6])), (0.5, event("cde", [7, 8, 9], "length")),
                   (0.5, usage(5, **drafts(**steps)))).steps
    assert (found.tokens, found.accepted, found.seconds) == ([1, 3, 1], [0, 2, 0], near([0.1, 0.2, 0.2]))


COUNTS = {"spec_verify_ct": 2, "spec_num_proposed_drafts": 6}


@pytest.mark.parametrize(("counts", "accepted"), [
    ({**COUNTS, "spec_correct_drafts_histogram": [1, 0, 1]}, [0, 0, 2]),
    ({"spec_verify_ct": 2, "spec_draft_token_num": 6, "spec_accept_token_num": 2}, [0, 1, 1]), (COUNTS, [0, 1, 1])])
@pytest.mark.parametrize("place", ["choice", "event", "end"])
def test_drafts_are_those_that_sglang_counts_for_the_request(counts: dict[str, Any], accepted: list[int], place: str
                                                             ) -> None:
    last, end = event("e", [9], "length"), usage(5)
    if place == "choice":
        last["choices"][0]["meta_info"] = counts
    else:
        (last if place == "event" else end)["sglext"] = counts
    found = answer((0.1, event("a", [5])), (0.3, event("bcd", [6, 7, 8])), (0.4, last), (0.4, end)).steps
    assert (found.accepted, found.drafted) == (accepted, [0, 3, 3])
    assert found.tokens == [1, *(count + 1 for count in accepted[1:])]


@pytest.mark.parametrize("counts", ["none", {}, {"spec_verify_ct": 0}, {"spec_verify_ct": "many"},
                                    {"spec_verify_ct": 2, "spec_accept_histogram": 7}])
def test_counts_in_an_unknown_form_are_left_out(counts: Any) -> None:
    last = event("b", [6], "length")
    last["choices"][0]["meta_info"] = counts
    found = answer((0.1, event("a", [5])), (0.4, last), (0.4, usage(2))).steps
    assert (found.tokens, found.drafted, found.accepted) == ([1, 1], [], [])


def test_a_stop_string_of_sglang_is_told_from_the_end_token() -> None:
    for matched, stop in (("zz", "stop"), (2, "eos"), (None, "eos")):
        last = event("a", [5], "stop")
        last["choices"][0]["matched_stop"] = matched
        assert answer((0.1, last)).stop == stop


@pytest.mark.parametrize(("parts", "words"), [
    (stream((0.1, event("a", [5]))), "ended before the answer did"),
    ([], "ended before the answer did"),
    (stream((0.1, event("a", None, "stop"))), "counts no tokens"),
    (stream((0.1, event("a", [5], "length")), (0.1, usage(2))), "counts 2 tokens and has 1"),
    (stream((0.1, event("a", [5])), (0.2, {"error": {"message": "engine died", "code": 500}})), "engine died"),
    (stream((0.1, {"object": "error", "message": "too long"})), "too long"),
    ([(0.1, b"<html>Sign in</html>")], "neither an event nor JSON"),
    ([(0.1, b'{"choices": [{"te')], "Unterminated"),
    ([(0.1, b"data: []\n\n")], "neither an event nor JSON"),
    (stream((0.1, {"choices": [{"index": "first"}]})), "index"),
    (stream((0.1, event("a", [5], "length")), (0.1, {"usage": {"prompt_tokens": 9, "completion_tokens": -1}})),
     "completion_tokens"),
])
def test_what_cannot_be_read_is_no_answer(parts: Parts, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(parts).answer()


WHOLE = stream((0.0, event("é\u2028 \x85", [5])), (0.0, event("日本", [6, 7])), (0.0, event("", [2], "stop")),
               (0.0, usage(4)))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_an_event_came_when_its_last_byte_did(sizes: list[int]) -> None:
    data, parts, ends = b"".join(part for _, part in WHOLE).replace(b"\n", b"\r\n"), Parts(), list[int]()
    while data:  # in parts of any size, through characters and line ends
        size = sizes[len(parts) % len(sizes)]
        parts, data = [*parts, (float(len(parts)), data[:size])], data[size:]
    sent = b""
    for number, (_, part) in enumerate(parts):
        before, sent = sent.count(b"\n"), sent + part
        ends += [number] * (sent.count(b"\n") - before)
    found = read(parts)
    assert (found.text, found.ids) == ("é\u2028 \x85日本", [5, 6, 7, 2])
    assert [burst.at for burst in found.bursts] == [ends[0], ends[2], ends[4]]  # every event has two lines


def test_a_reply_that_is_nothing_yet() -> None:
    assert Reply().has_ids is False
    assert read([(0.1, b": a comment\nevent: x\nid: 3\nretry: 5\n\ndata: [DONE]\n")]).last is None
