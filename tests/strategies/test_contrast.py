"""Contrasts of two models or two prompts: golden numbers, identities, and every step recomputed from scratch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from math import inf, log

import pytest
import torch
from torch import Tensor
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

from harness.decoding.contrast import Contrast, Scored, away, contrast, plausible
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Request, RequestText, Strategy
from strategies.contrastive_decoding import VARIANTS, ContrastiveDecoding
from strategies.greedy import Greedy
from strategies.guidance import Guidance
from strategies.instructive import Instructive
from strategies.parts.second_prompt import NOISES, OPPOSITE, RANDOM, noisy, parted
from strategies.top_p import TopP
from tests.decode import decode, engine, traced
from tests.markov import END, START, TABLE, A, B, Markov, letters, markov
from tests.models import EOS, MAX_POSITIONS, prompts, tiny_model
from tests.scale import scaled

FOUR = ("llama", "qwen2", "gpt2", "opt")
EXPERT, AMATEUR = torch.tensor([2.0, 1.5, 0.0, -3.0]), torch.tensor([2.0, 0.0, 0.0, -3.0])


@cache
def target(arch: str, seed: int = 0) -> Engine:
    return engine(tiny_model(arch, seed=seed))


@torch.inference_mode()
def logits(engine: Engine, text: Sequence[int]) -> Tensor:
    out: Tensor = engine.model(torch.tensor([list(text)])).logits[0, -1].float()
    return out


def write(strategy: Strategy, target: Engine, prompt: Sequence[int], second: Sequence[int] = (), new: int = 12,
          draft: Engine | None = None, sample: int = 0) -> list[int]:
    """Decode a request with text whose other prompts are all `second`."""
    session = Session(target, Session(draft) if draft else None)
    words = RequestText("Say it.\n\nWhat?", lambda text: list(second), lambda text: [], lambda tokens: "",
                        lambda text: None)
    request = Request(tuple(prompt), new, PhiloxStream(0, *prompt, sample), frozenset({EOS}), sample, text=words)
    written = list[int]()
    try:
        for step in strategy.generate(session, request):
            written += step
            if EOS in written or len(written) >= new:
                break
    finally:
        session.close()
    return written[:written.index(EOS) + 1] if EOS in written else written[:new]


def by_hand(scores: Callable[[list[int]], Tensor], prompt: Sequence[int], new: int = 12) -> list[int]:
    """Return the tokens of the highest scores, with every step from scratch."""
    text = list(prompt)
    while len(text) < len(prompt) + new and text[-1] != EOS:
        text.append(int(scores(text).argmax()))
    return text[len(prompt):]


def test_the_numbers_of_the_sheet() -> None:
    method = ContrastiveDecoding(tau=1.0)
    assert plausible(EXPERT.log_softmax(-1), 0.1).tolist() == [True, True, True, False]
    scores = method.scores(EXPERT, AMATEUR)
    assert [round(float(s), 3) for s in scores] == [-0.314, 1.186, -0.314, -inf]
    found = replace(method, variant="cd2", beta=0.5).scores(EXPERT, AMATEUR)
    assert torch.allclose(found, contrast(EXPERT, AMATEUR, 0.1, 0.5))
    assert torch.allclose(found[:3] - found[0], torch.tensor([2.0, 2.25, 0.0]).double() - 2, atol=1e-6)
    official = replace(method, variant="official", tau=0.5)
    apart = EXPERT.double().log_softmax(-1) - AMATEUR.double().log_softmax(-1) / 0.5
    assert torch.allclose(replace(official, width=1).scores(EXPERT, AMATEUR), apart)  # one greedy text knows no cut
    assert torch.allclose(official.scores(EXPERT, AMATEUR)[:3], apart[:3])
    assert replace(official, width=1, temperature=1.0).scores(EXPERT, AMATEUR)[3] == -inf
    sure = torch.tensor([9.0, 0.0, -1.0, -2.0])
    assert (official.scores(sure, AMATEUR) > -inf).tolist() == [True, True, False, False]  # two are kept in a beam
    assert (method.scores(sure, AMATEUR) > -inf).tolist() == [True, False, False, False]


def test_scores_do_not_move_with_the_logits() -> None:
    for variant in VARIANTS:
        method = ContrastiveDecoding(variant=variant)
        assert torch.allclose(method.scores(EXPERT + 7, AMATEUR - 30), method.scores(EXPERT, AMATEUR), atol=1e-5)
    far = method.scores(EXPERT, torch.tensor([0.0, -3e4, -1.0, 0.0]))
    assert far.isfinite().sum() == 3
    assert float(far[1]) > 1e4


def test_what_is_forbidden_stays_so() -> None:
    plus, minus = torch.tensor([0.0, -inf, -inf, 1.0]), torch.tensor([0.0, 1.0, -inf, -inf])
    assert away(plus, minus, 0.5).tolist() == [0.0, -inf, -inf, 0.5]
    assert (plausible(plus, 0.0)).tolist() == [True, False, False, True]


def test_ties_go_to_the_token_that_the_model_prefers() -> None:
    method, request = ContrastiveDecoding(width=1), Request((3,), 5, PhiloxStream(0))
    plain = torch.tensor([0.0, 1.0, 2.0, 2.0])
    assert method.pick(Scored(torch.tensor([1.0, 1.0, 1.0, 1.0]), plain), [3], request) == 2
    assert method.pick(Scored(torch.tensor([1.0, 1.0, 0.0, 0.0]), plain), [3], request) == 1


SAME_AS_GREEDY = [ContrastiveDecoding(width=1, beta=0.0), ContrastiveDecoding(width=1, alpha=1.0, beta=5.0),
                  ContrastiveDecoding(width=1, alpha=1.0, variant="cd2"), Guidance(scale=1.0),
                  ContrastiveDecoding(width=1, beta=0.0, variant="official", context="all"), Instructive(epsilon=0.0)]


@pytest.mark.parametrize("arch", FOUR)
@pytest.mark.parametrize("method", SAME_AS_GREEDY, ids=lambda method: method.spec())
def test_greedy_where_there_is_nothing_to_contrast(method: Strategy, arch: str) -> None:
    for prompt in prompts(3, 97, 6):
        found = write(method, target(arch), prompt, [9, 8, 7], draft=target(arch, 1), new=20)
        assert found == decode(Greedy(), target(arch), prompt, new=20)


@pytest.mark.parametrize("arch", FOUR)
@torch.inference_mode()
def test_greedy_where_both_say_the_same(arch: str) -> None:
    """An amateur that is the expert, and a noisy prompt that is the prompt; a uniform amateur too."""
    for prompt in prompts(3, 97, 6):
        expected = decode(Greedy(), target(arch), prompt)
        for variant in ("paper", "cd2"):
            method = ContrastiveDecoding(width=1, tau=1.0, context="all", variant=variant)
            assert decode(method, target(arch), prompt, draft=target(arch)) == expected
        for variant in ("paper", "cd2"):  # so hot that all tokens are alike
            method = ContrastiveDecoding(width=1, tau=100.0, beta=0.001, variant=variant)
            assert decode(method, target(arch), prompt, draft=target(arch, 1)) == expected
        for other in (Instructive(), Instructive(epsilon=0.9), Guidance(negative="none", scale=3.0)):
            assert write(other, target(arch), prompt, prompt, new=30) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_contrastive_decoding_again_from_scratch(variant: str) -> None:
    changed = 0
    for i, prompt in enumerate(prompts(scaled(16, 32), 97, 12 + VARIANTS.index(variant))):
        arch, context = FOUR[i % 4], ("all", "last")[i // 4 % 2]
        method = ContrastiveDecoding(width=1, tau=0.5 + i % 3, beta=0.5, variant=variant, context=context)

        def scores(text: list[int]) -> Tensor:
            expert = logits(target(arch), text).double().log_softmax(-1)  # noqa: B023
            amateur = logits(target(arch, 1), text if context == "all" else text[len(prompt) - 1:])  # noqa: B023
            scaled = amateur.double() / method.tau  # noqa: B023
            out = (1.5 if variant == "cd2" else 1.0) * expert - 0.5 * scaled.log_softmax(-1)
            return out if variant == "official" else out.masked_fill(expert < expert.max() + log(0.1), -inf)
        found = write(method, target(arch), prompt, draft=target(arch, 1), new=5)
        assert found == by_hand(scores, prompt, 5)
        changed += found != decode(Greedy(), target(arch), prompt, new=5)
    assert changed > scaled(6, 14)


def hypotheses(method: ContrastiveDecoding, length: int) -> dict[str, float]:
    """Return the sums of scores of all sequences of the chain that end or have `length` tokens."""
    slow = (TABLE * torch.tensor([1.0, 3.0, 1.0, 2.0])).clamp_min(0)
    slow = slow / slow.sum(-1, keepdim=True)
    found = {}
    for size in range(1, length + 1):
        for text in product((A, B, END), repeat=size):
            if END in text[:-1] or (text[-1] != END and size < length):
                continue
            before = [START, *text[:-1]]
            steps = [float(method.scores(TABLE.log()[a], slow.log()[a])[b]) for a, b in zip(before, text, strict=True)]
            found[letters(text)] = sum(steps)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_beam_as_wide_as_the_chain_finds_the_highest_sum(variant: str) -> None:
    slow = (TABLE * torch.tensor([1.0, 3.0, 1.0, 2.0])).clamp_min(0)
    small = Engine(Markov(slow / slow.sum(-1, keepdim=True)), 64)
    for beta, alpha, tau in product((0.25, 1.0), (0.0, 0.3), (0.5, 1.0)):
        method = ContrastiveDecoding(width=31, beta=beta, alpha=alpha, tau=tau, variant=variant)
        ranked = {text: s for text, s in sorted(hypotheses(method, 4).items(), key=lambda e: -e[1]) if s > -inf}
        for sample, (_, score) in zip(range(3), ranked.items(), strict=False):
            found = decode(method, markov(), [START], draft=small, new=4, eos=END, sample=sample)
            assert ranked[letters(found)] == pytest.approx(score, abs=1e-5)


def test_a_narrow_beam_by_hand() -> None:
    """Each step keeps the best sums; "official" first keeps the likeliest next tokens of all beams."""
    for variant, prompt in product(("paper", "official"), prompts(scaled(3, 6), 97, 3)):
        method, length = ContrastiveDecoding(width=3, variant=variant), 4
        live = [((), 0.0)]
        for step in range(length):
            rows = []
            for tokens, score in live:
                expert = logits(target("llama"), [*prompt, *tokens])
                scores = method.scores(expert, logits(target("llama", 1), [prompt[-1], *tokens]))
                plain = expert.log_softmax(-1)
                rows += [(score + float(s), float(plain[t]), (*tokens, t)) for t, s in enumerate(scores) if s > -inf]
            if variant == "official" and step:
                rows = sorted(rows, key=lambda row: -row[1])[:6]
            live = [(tokens, score) for score, _, tokens in sorted(rows, key=lambda row: -row[0])[:3]]
        for sample in range(3):
            found = decode(method, target("llama"), prompt, draft=target("llama", 1), new=length, eos=None,
                           sample=sample)
            assert tuple(found) == live[sample][0]


def test_draws_follow_the_scores() -> None:
    small = Engine(Markov(TABLE.roll(1, 1).clamp_min(1e-9)), 64)
    method = ContrastiveDecoding(width=1, temperature=0.7, beta=0.5, tau=1.0, alpha=0.2)
    law = (method.scores(TABLE.log()[A], TABLE.roll(1, 1).clamp_min(1e-9).log()[A]) / 0.7).softmax(-1)
    draws = [decode(method, markov(), [START, A], draft=small, new=1, eos=END, sample=i)[0]
             for i in range(scaled(1000, 2000))]
    shares = torch.bincount(torch.tensor(draws), minlength=4) / len(draws)
    assert float((shares - law).abs().max()) < 0.04


@pytest.mark.parametrize("method", [ContrastiveDecoding(), ContrastiveDecoding(width=1, temperature=1.0),
                                    ContrastiveDecoding(width=3, variant="official"), Instructive(temperature=1.0),
                                    Guidance(), Guidance(negative="none", scale=2.0)], ids=lambda m: m.spec())
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_side_by_side_is_alone(method: Strategy) -> None:
    jobs = [partial(write, method, target("llama"), prompt, [7, *prompt[1:]], draft=target("llama", 1), new=10)
            for prompt in prompts(scaled(5, 7), 97, 9)]
    alone = [job() for job in jobs]
    assert run_batched([target("llama"), target("llama", 1)], jobs, 3) == alone
    assert run_batched([target("llama"), target("llama", 1)], jobs, 16) == alone
    assert target("llama").open_rows == target("llama", 1).open_rows == 0


def test_instructive_again_from_scratch() -> None:
    changed = 0
    for i, (prompt, second) in enumerate(zip(*(prompts(scaled(24, 96), 97, seed) for seed in (13, 14)), strict=True)):
        arch, start = FOUR[i % 4], len(prompt)

        def scores(text: list[int]) -> Tensor:
            plain, noise = logits(target(arch), text), logits(target(arch), [*second, *text[start:]])  # noqa: B023
            return plain - 0.5 * noise
        found = write(Instructive(epsilon=0.5), target(arch), prompt, second, 3)
        assert found == by_hand(scores, prompt, 3)
        if i % 4 == 3:
            assert found == write(Guidance(negative="none", scale=2.0), target(arch), prompt, second, 3)
        changed += found != decode(Greedy(), target(arch), prompt, new=3)
    assert changed > scaled(5, 24)


@pytest.mark.parametrize("arch", FOUR)
@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0])
@torch.inference_mode()
def test_guidance_is_that_of_transformers(arch: str, scale: float) -> None:
    for prompt, second in zip(*(prompts(scaled(2, 4), 97, seed) for seed in (13, 14)), strict=True):
        for negative, ids in (("last", None), ("none", torch.tensor([second]))):
            model = target(arch).model
            judge = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model, ids, use_cache=False)
            expected = by_hand(lambda text: judge(torch.tensor([text]), logits(target(arch), text)[None])[0],  # noqa: B023
                               prompt)
            assert write(Guidance(scale=scale, negative=negative), target(arch), prompt, second) == expected


def test_samples_of_both_have_one_distribution_at_different_temperatures() -> None:
    """z − ε·z̃ is 1 − ε times what guidance with 1 / (1 − ε) gives, so sampling needs the same scale of temperature."""
    prompt, second = prompts(2, 97, 21)
    differs = 0
    for sample, arch in product(range(scaled(1, 4)), FOUR):
        one = write(Instructive(epsilon=0.3, temperature=0.7), target(arch), prompt, second, sample=sample)
        for heat, same in ((1.0, True), (0.7, False)):
            guided = Guidance(scale=1 / 0.7, negative="none", temperature=heat)
            found = write(guided, target(arch), prompt, second, sample=sample)
            assert found == one or not same
            differs += found != one
        assert write(Instructive(epsilon=0.3), target(arch), prompt, second) == write(
            Guidance(scale=1.4286, negative="none"), target(arch), prompt, second)
    assert differs > scaled(0, 4)


def test_what_a_token_costs() -> None:
    """One forward of either model, or one after either prompt."""
    prompt, small = prompts(1, 97, 6)[0], target("llama", 1)
    for context, length in (("last", 1), ("all", len(prompt))):
        method = ContrastiveDecoding(width=1, context=context)
        _, work, draft_work = traced(method, target("llama"), prompt, draft=small, new=10, eos=None)
        assert (work.forwards, work.positions) == (10, len(prompt) + 9)
        assert (draft_work.forwards, draft_work.positions) == (10, length + 9)
    _, work, draft_work = traced(ContrastiveDecoding(), target("llama"), prompt, draft=small, new=10, eos=None)
    assert (work.forwards, draft_work.forwards) == (10, 10)
    _, work, _ = traced(Guidance(), target("llama"), prompt, new=10, eos=None)
    assert (work.forwards, work.positions) == (20, len(prompt) + 9 + 10)


def test_instruction_and_rest() -> None:
    assert parted("Be brief.\n\nWhat is it?\nNow.\n\nSo?") == ("Be brief.", "\n\nWhat is it?\nNow.\n\nSo?")
    assert parted("\n\nUser: Who?\nAssistant:") == ("\n\nUser: Who?", "\nAssistant:")
    assert parted("All of it.\n\n") == ("All of it.\n\n", "")
    prompt, stream = "one two three four five\n\nrest here", PhiloxStream(1)
    assert noisy(prompt, "none", 0.6, stream) == "rest here"
    assert noisy(prompt, "opposite", 0.6, stream) == OPPOSITE + "\n\nrest here"
    for kept in (5, 2, 1):
        seen = {noisy(prompt, "shuffled", 1 - kept / 5, PhiloxStream(i)) for i in range(20)}
        assert len(seen) > 1
        for text in seen:
            first, rest = parted(text)
            assert rest == "\n\nrest here"
            assert len(set(first.split())) == kept
            assert set(first.split()) <= set(prompt.split())
    assert noisy(prompt, "random", 0.6, stream).removesuffix("\n\nrest here") in RANDOM
    for noise in NOISES:
        assert isinstance(noisy("", noise, 0.6, stream), str)


def test_a_second_prompt_that_is_too_long_keeps_its_end() -> None:
    long = [5] * (MAX_POSITIONS + 9) + [9, 8, 7]
    kept = [5] * (MAX_POSITIONS - 12 - 3) + [9, 8, 7]
    method, prompt = Instructive(), prompts(1, 97, 6)[0]
    assert write(method, target("llama"), prompt, long) == write(method, target("llama"), prompt, kept)


def test_what_cannot_be_is_refused() -> None:
    session = Session(target("llama"))
    with pytest.raises(UserError, match="set width=1"):
        ContrastiveDecoding(temperature=1.0)
    with pytest.raises(Unsupported, match="draft model"):
        decode(ContrastiveDecoding(), target("llama"), [3, 4])
    with pytest.raises(Unsupported, match="as text"):
        Instructive().scorer(session, Request((3, 4), 5, PhiloxStream(0)))
    session.close()
    assert decode(Guidance(), target("llama"), [3, 4], new=3)
    assert (ContrastiveDecoding().max_samples(), ContrastiveDecoding(width=1).max_samples()) == (5, None)


def test_a_draw_without_contrast_is_a_nucleus() -> None:
    new = scaled(15, 30)
    for method in (Guidance(scale=1.0, temperature=0.8, p=0.9), ContrastiveDecoding(
            width=1, alpha=0.0, beta=0.0, temperature=0.8, p=0.9)):
        for sample in range(5):
            found = decode(method, target("llama"), [3, 4], draft=target("llama", 1), new=new, sample=sample)
            assert found == decode(TopP(p=0.9, temperature=0.8), target("llama"), [3, 4], new=new, sample=sample)


@torch.inference_mode()
def test_a_planted_tie_break_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contrast, "pick", lambda self, scored, text, request: int(scored.scores.argmax()))
    with pytest.raises(AssertionError):
        test_greedy_where_both_say_the_same("llama")


def test_planted_formulas_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.instructive.away", lambda plus, minus, weight: plus + weight * minus)
    with pytest.raises(AssertionError):
        test_instructive_again_from_scratch()
    monkeypatch.setattr("strategies.contrastive_decoding.plausible", lambda log_p, *_: log_p > -inf)
    for variant in ("paper", "cd2"):
        with pytest.raises(AssertionError):
            test_contrastive_decoding_again_from_scratch(variant)
