"""Speculative reasoning: each judge's value by hand, its identities, who wrote what, and batches."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any

import pytest
import torch

from harness.backends.trace import Trace, trace
from harness.backends.transformers import open_session
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.errors import Unsupported, UserError
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText, Strategy
from strategies.greedy import Greedy
from strategies.speculative_reasoning import DRAWS, KEYWORDS, THRESHOLDS, SpeculativeReasoning
from strategies.top_p import TopP
from tests.decode import decode, engine, traced
from tests.models import EOS, prompts, tiny_model
from tests.pair import tokenizer
from tests.scale import scaled

VOCAB, PROMPT = 97, prompts(1, 97, 3)[0] * 2
BREAKS = range(3, 15)  # tokens whose text is a line break …
UNBROKEN = dict.fromkeys(BREAKS, " x")  # … unless it is this


@cache
def model(seed: int = 0) -> Engine:
    return engine(tiny_model("llama", seed=seed, layers=2))


def pieces(prompt: Sequence[int], spelled: dict[int, str] | None = None) -> RequestText:
    """Return a prompt as text in which some tokens are line breaks, and the digits are tokens 50 to 59."""
    spell = dict.fromkeys(BREAKS, "\n") | (spelled or {})

    def text(tokens: Sequence[int]) -> str:
        return "".join(spell.get(token, f" t{token}") for token in tokens if token != EOS)

    def ids(text: str) -> list[int]:
        return [50 + int(text)] if text.isdigit() else [60, 61, 62]
    return RequestText(text(prompt), ids, ids, text, lambda answer: answer)


def run(method: Strategy, prompt: Sequence[int] = PROMPT, new: int = 30, draft: Engine | None = None, sample: int = 0,
        spelled: dict[int, str] | None = None, eos: int | None = None) -> Trace:
    """Return the trace of a strategy, with its trees."""
    session = open_session(method, [model(), draft or model(1)])
    ends = frozenset() if eos is None else frozenset({eos})
    request = Request(tuple(prompt), new, PhiloxStream(0, sample), ends, sample, text=pieces(prompt, spelled))
    with closing(session):
        return trace(method, session, request, StopRule(tokenizer(), list(prompt), ends, ()), lambda: 0.0, full=True)


def method(**knobs: Any) -> SpeculativeReasoning:
    return SpeculativeReasoning(**{"unit": "line", "longest": 12, **knobs})


def writers(found: Trace) -> list[tuple[str, list[int]]]:
    """Return the tokens of each decode step and whether the draft model wrote them."""
    parts, start = list[tuple[str, list[int]]](), 0
    for count, accepted in zip(found.steps.tokens, found.steps.accepted, strict=True):
        parts.append(("draft" if accepted else "target", found.tokens[start:start + count]))
        start += count
    return parts


@torch.inference_mode()
def mean_log_p(engine: Engine, before: Sequence[int], step: Sequence[int]) -> float:
    logits = engine.model(torch.tensor([[*before, *step]])).logits[0, len(before) - 1:-1].log_softmax(-1)
    return float(logits.gather(1, torch.tensor(step)[:, None]).mean())


@pytest.mark.parametrize("judge", THRESHOLDS)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_target_alone_and_the_draft_model_alone(judge: str, temperature: float) -> None:
    """Token for token: the two models draw from streams of their own."""
    same = TopP(p=0.95, temperature=temperature) if temperature else Greedy()
    for sample, prompt in enumerate(prompts(2, VOCAB, 5)):
        for threshold, writer, stream in ((1000.0, model(), PhiloxStream(0, sample)),
                                          (-1000.0, model(1), PhiloxStream(0, sample).branch(DRAWS))):
            alone = decode(same, writer, prompt, new=30, eos=None, stream=stream)
            knobs = {"judge": judge, "threshold": threshold, "temperature": temperature, "p": 0.95}
            found = run(method(**knobs), prompt, sample=sample)
            assert found.tokens == alone
            assert sum(found.steps.accepted) == (0 if threshold > 0 else 30)


def test_every_step_is_judged_by_its_log_p() -> None:
    """At a threshold between the values, steps that stand are at least as likely, and rejected ones less likely."""
    stood = fell = 0
    for sample, prompt in enumerate(prompts(scaled(4, 8), VOCAB, 7)):
        found = run(method(threshold=-5.5, longest=3, temperature=1.0), prompt, sample=sample)
        sequence = list(prompt)
        starts = [at for at, drafted in enumerate(found.steps.drafted) if drafted]
        assert len(starts) == len(found.trees)
        for at, (_, tokens) in enumerate(writers(found)):
            if at in starts:
                step = found.trees[starts.index(at)].tokens
                stands = mean_log_p(model(), sequence, step) >= -5.5
                assert found.steps.accepted[at] == (len(step) if stands else 0)
                assert found.steps.whole[at] == stands
                if stands:
                    assert tokens == step[:len(tokens)]
                    stood += 1
                else:
                    fell += 1
            sequence += tokens
    assert min(stood, fell) > 3


def test_a_step_ends_at_its_mark_or_at_its_limit() -> None:
    ends = set()
    for prompt in prompts(4, VOCAB, 8):
        found = run(method(threshold=-1000.0, longest=9, temperature=1.0), prompt, new=60)
        for _, tokens in writers(found)[:-1]:
            breaks = [token in BREAKS for token in tokens]
            assert not any(breaks[:-1])
            assert breaks[-1] or len(tokens) == 9
            ends.add(breaks[-1])
    assert ends == {True, False}
    whole = run(method(threshold=-1000.0, unit="paragraph", longest=512), new=25, spelled=UNBROKEN)
    assert whole.steps.tokens == [25], "no paragraph ends, and no draft passes the limit"
    assert whole.steps.draft_forwards == [25]


@pytest.mark.parametrize(("text", "sizes"), [("x\n", [30]), ("\nx\n", [2] * 15), ("x\n\n", [1] * 30)])
def test_a_blank_line_may_be_of_two_tokens(text: str, sizes: list[int]) -> None:
    """Two line breaks in a row end a paragraph, one does not; here all tokens have the same text."""
    found = run(method(threshold=-1000.0, unit="paragraph", longest=512), spelled=dict.fromkeys(range(VOCAB), text))
    assert found.steps.tokens == sizes


def test_nothing_is_written_after_the_end() -> None:
    ended = 0
    for prompt in prompts(scaled(6, 12), VOCAB, 4):
        found = run(method(unit="paragraph", longest=512, threshold=-1000.0), prompt, new=40, eos=EOS)
        assert EOS not in found.tokens[:-1]
        assert sum(found.steps.draft_forwards) == len(found.tokens)
        ended += found.stop == "eos"
    assert ended > 1


@torch.inference_mode()
def test_entropy_decides_before_the_draft_model_writes() -> None:
    """No draft is rejected, and the target is run only for its own steps and what came before them."""
    hands = set()
    for sample, prompt in enumerate(prompts(4, VOCAB, 9)):
        found = run(method(judge="entropy", threshold=-3.0, longest=4, temperature=1.0), prompt, sample=sample, new=40)
        assert found.steps.drafted == found.steps.accepted
        sequence, begins = list(prompt), True
        for writer, tokens in writers(found):
            if begins:
                p = model(1).model(torch.tensor([sequence])).logits[0, -1].softmax(-1)
                assert (writer == "draft") == (float((p * p.log()).sum()) >= -3)
                hands.add(writer)
                own = 0
            own += len(tokens)
            begins = writer == "draft" or tokens[-1] in BREAKS or own == 4
            sequence += tokens
        forwards = sum(count for (writer, _), count in zip(writers(found), found.steps.forwards, strict=True)
                       if writer == "draft")
        assert forwards == 0
    assert hands == {"draft", "target"}


def test_a_word_of_doubt_hands_over() -> None:
    """The draft model stops at the word; a step without one stands, and costs the target no forward."""
    greedy = decode(Greedy(), model(1), PROMPT, new=30, eos=None)
    doubt = greedy[5]
    assert doubt not in greedy[:5]
    found = run(method(judge="keywords", unit="paragraph", longest=10), spelled=UNBROKEN | {doubt: " Wait,"})
    assert found.steps.drafted[0] == 6
    assert found.steps.accepted[0] == 0
    assert found.steps.draft_forwards[0] == 6
    assert found.tokens[:10] == decode(Greedy(), model(), PROMPT, new=10, eos=None)
    late = run(method(judge="keywords", unit="paragraph", longest=30, threshold=-1.0),
               spelled=UNBROKEN | {doubt: " wait"})
    assert late.steps.accepted == [30], "a threshold of -1 accepts doubts"
    sure = run(method(judge="keywords", unit="paragraph", longest=30), spelled=UNBROKEN | {doubt: " await"})
    assert (sure.steps.accepted, sure.steps.forwards) == ([30], [0])
    assert sure.tokens == greedy
    assert not KEYWORDS.search("I await the checkers")
    assert KEYWORDS.search("So. HOLD ON: 3 + 4")


@torch.inference_mode()
def test_the_score_is_the_expected_digit() -> None:
    """After the step and the question, over the ten digits alone."""
    scores = list[float]()
    for sample, prompt in enumerate(prompts(scaled(4, 8), VOCAB, 11)):
        for threshold in (3.0, 4.5, 6.0):
            found = run(method(judge="score", threshold=threshold, longest=5, temperature=1.0), prompt, sample=sample,
                        new=5)
            step = found.trees[0].tokens
            logits = model().model(torch.tensor([[*prompt, *step, 60, 61, 62]])).logits[0, -1, 50:60]
            scores.append(float(logits.softmax(-1) @ torch.arange(10.0)))
            assert (found.steps.accepted[0] > 0) == (scores[-1] >= threshold)
            assert found.steps.drafted[0] == len(step)
    assert min(scores) < 3 < 6 < max(scores), "the thresholds must matter"


def test_a_rejected_step_leaves_no_trace_in_the_cache() -> None:
    """The target goes on as if neither the step nor the question had been read."""
    for judge in ("score", "logp", "keywords"):
        found = run(method(judge=judge, threshold=1000.0, longest=3), new=20)
        assert found.tokens == decode(Greedy(), model(), PROMPT, new=20, eos=None)
        assert sum(found.steps.drafted) >= (8 if judge == "keywords" else 18)
        assert sum(found.steps.accepted) == 0


def test_the_first_steps_are_the_targets() -> None:
    found = run(method(threshold=-1000.0, longest=3, first=2), new=12)
    assert found.tokens[:6] == decode(Greedy(), model(), PROMPT, new=6, eos=None)[:6]
    counts = [(writer, len(tokens)) for writer, tokens in writers(found)]
    own = sum(count for writer, count in counts if writer == "target")
    assert own <= 6
    assert counts[:own] == [("target", 1)] * own
    assert {writer for writer, _ in counts[own:]} == {"draft"}


def test_what_a_verified_step_costs() -> None:
    """One forward of the target a step that stands; a rejected one costs none beyond it for the first token."""
    length = len(PROMPT)
    _, work, small = traced(method(threshold=-1000.0, longest=6), model(), PROMPT, draft=model(1), new=24, eos=None)
    assert (work.forwards, work.positions, work.drafted, work.accepted) == (4, length + 24, 24, 24)
    assert (small.forwards, small.positions) == (24, length + 23)
    _, work, _ = traced(method(threshold=1000.0, longest=6), model(), PROMPT, draft=model(1), new=24, eos=None)
    assert (work.forwards, work.drafted, work.accepted) == (24, 24, 0)


@pytest.mark.parametrize("judge", THRESHOLDS)
@torch.inference_mode()
def test_sixteen_in_a_batch_have_the_tokens_of_each_alone(judge: str) -> None:
    least = {"logp": -4.0, "score": 4.5, "entropy": -3.0, "keywords": 0.0}[judge]
    spelled = dict.fromkeys(range(20, 30), " wait")
    wary = method(judge=judge, threshold=least, longest=5, temperature=0.8)
    jobs = [partial(run, wary, prompt, scaled(8, 20), sample=i, spelled=spelled)
            for i, prompt in enumerate(prompts(16, VOCAB, 12))]
    alone = [job() for job in jobs]
    assert run_batched([model(), model(1)], jobs, 16) == alone
    shares = [sum(found.steps.accepted) > 0 for found in alone]
    assert True in shares
    assert {writer for found in alone for writer, _ in writers(found)} == {"draft", "target"}
    assert (model().open_rows, model(1).open_rows) == (0, 0)


def test_a_penalty_bends_both_models_and_the_judge() -> None:
    spec = "speculative_reasoning:unit=line,longest=6,threshold={}+no_repeat_ngram:n=1,prompt=false"
    for threshold, writer in ((-1000, model(1)), (1000, model())):
        found = run(STRATEGIES.build(spec.format(threshold)), new=20).tokens
        assert len(set(found)) == 20
        assert found == decode(STRATEGIES.build("greedy+no_repeat_ngram:n=1,prompt=false"), writer, PROMPT, new=20,
                               eos=None)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="'judge' must be one of logp, score, entropy, keywords"):
        method(judge="vibes")
    with pytest.raises(Unsupported, match="needs a draft model"):
        decode(method(), model(), PROMPT)
    session = open_session(method(), [model(), model(1)])
    with closing(session), pytest.raises(Unsupported, match="as text"):
        next(method().generate(session, Request((5,), 4, PhiloxStream(0))))
    few = RequestText("", lambda text: [5], lambda text: [5], lambda tokens: "", lambda answer: answer)
    session = open_session(method(), [model(), model(1)])
    with closing(session), pytest.raises(Unsupported, match="each digit is a token"):
        next(method(judge="score").generate(session, Request((5,), 4, PhiloxStream(0), text=few)))
    with pytest.raises(Unsupported, match="lower --max-new-tokens"):
        run(method(judge="score"), new=model().max_len - len(PROMPT))


@pytest.mark.parametrize("judge", ["logp", "score", "keywords"])
def test_a_broken_draft_model_writes_nothing(judge: str) -> None:
    weights = tiny_model("llama", seed=1)
    with torch.no_grad():
        weights.get_output_embeddings().weight[3] = torch.nan
    with pytest.raises(FloatingPointError, match="draft model's logits are NaN"):
        run(method(judge=judge, threshold=-1000.0), draft=engine(weights))


def test_a_text_without_marks_is_one_step() -> None:
    found = decode(SpeculativeReasoning(threshold=-1000.0), model(), PROMPT, draft=model(1), eos=None)
    assert found == decode(Greedy(), model(1), PROMPT, eos=None)
