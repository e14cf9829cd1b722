"""Drafts of the model itself without some layers, and shortened texts: greedy identity, distribution, counts."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import Skip, decoder_layers
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session, Work
from harness.engine.tree import EMPTY, TokenTree
from harness.errors import UserError
from harness.plugins.strategy import Request, Strategy
from strategies.drafters import proposal
from strategies.drafters.sublayers import spread
from strategies.exit_draft import ExitDraft
from strategies.ffn_skip import FfnSkip, SkipAlike
from strategies.greedy import Greedy
from strategies.layer_skip import LayerSkip
from strategies.recomputed_window import RecomputedWindow
from strategies.swift import Search, Swift, comb
from tests import models
from tests.chances import MASS, TEMPERATURE, VOCAB, PValue
from tests.models import prompts
from tests.scale import scaled
from tests.self_drafting import NEW, PROMPTS, as_greedy, deep, greedy, steps, target


def without(arch: str, skip: Skip) -> Engine:
    """The same model with the output weights of these sublayers set to zero."""
    model = deepcopy(deep(arch).model)
    model.get_decoder()._forward_hooks.clear()
    for i, layer in enumerate(decoder_layers(model)):
        for part in [layer.attention] * (i in skip.attention) + [layer.mlp[-1]] * (i in skip.mlp):
            ends = [m for name, m in part.named_modules() if name in ("", "o_proj", "out_proj", "c_proj", "down_proj")]
            for parameter in ends[-1].parameters():
                torch.nn.init.zeros_(parameter)
    return Engine(model, models.MAX_POSITIONS)


SKIPS = [Skip(frozenset({1, 3})), Skip(mlp=frozenset({0, 2, 4})), Skip(frozenset({0, 1, 5}), frozenset({1, 2, 5}))]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "qwen2"])
@pytest.mark.parametrize("skip", SKIPS, ids=["attention", "mlp", "both"])
def test_a_plan_is_the_model_without_those_sublayers(arch: str, skip: Skip) -> None:
    """From the first token on, so that no keys and values of the whole model are seen."""
    whole, part, text = Session(deep(arch)), Session(without(arch, skip)), PROMPTS[0]
    tree = TokenTree((5, 6, 7), (-1, -1, 0))
    for session in (whole, part):
        session.follow(text)
    torch.testing.assert_close(whole.read(tree, skip).logits, part.read(tree).logits)
    whole.follow([])
    torch.testing.assert_close(whole.draft_read(text, skip).logits[-1:], part.read().logits)
    whole.close()
    part.close()


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_a_plan_that_skips_nothing_changes_no_bit(arch: str) -> None:
    session = Session(deep(arch))
    found = []
    for hook in (None, Skip(), None, Skip(frozenset({2})), Skip()):
        session.follow([])
        session.follow(PROMPTS[0])
        found.append(session.read(EMPTY, hook).logits)
    session.close()
    assert [torch.equal(found[0], other) for other in found[1:]] == [True, True, False, True]
    assert all("forward" not in module.__dict__ for module in deep(arch).model.modules())


@torch.inference_mode()
def test_draft_forwards_leave_the_sequence_unchanged() -> None:
    """Drafts go below the text, one after another or in place of its end, and the whole model sees none of them."""
    text, more, hook = PROMPTS[0], [7, 8, 9], Skip(frozenset({1, 2}), frozenset({3}))
    session, fresh = Session(deep()), Session(deep())
    session.follow(text)
    session.read()
    rows = torch.cat([session.draft_read([token], hook).logits for token in more])
    session.follow(text)
    torch.testing.assert_close(session.draft_read(more, hook).logits, rows, rtol=1e-4, atol=1e-4)
    session.follow(text)
    nothing = session.draft_read(text[-2:], Skip(), back=2).logits
    session.follow([*text, *more])
    said = session.read(TokenTree.chain([5])).logits
    fresh.follow([*text, *more])
    torch.testing.assert_close(said, fresh.read(TokenTree.chain([5])).logits)
    for i in (1, 2):
        fresh.follow(text[:len(text) - 2 + i])
        torch.testing.assert_close(nothing[i - 1:i], fresh.read().logits)
    assert (session.draft_work.forwards, session.draft_work.positions) == (5, 8)
    fresh.follow([*text, 5])
    with pytest.raises(ValueError, match="call read first"):
        fresh.draft_read([5], hook)
    session.close()
    fresh.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_of_the_whole_model_is_always_right(temperature: float) -> None:
    """Golden: with nothing left out, tau is gamma + 1."""
    strategy = LayerSkip(share=0.0, gamma=4, theta=0.0, temperature=temperature)
    session, blocks = steps(strategy, PROMPTS[0], 31, deep())
    assert [len(block) for block in blocks] == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.drafted, session.work.accepted, session.work.forwards) == (24, 24, 7)
    assert (session.draft_work.forwards, session.draft_work.positions) == (24, 24)


def test_a_doubtful_token_ends_the_draft_and_is_part_of_it() -> None:
    _, blocks = steps(LayerSkip(share=0.0, theta=1.0, adapt=False), PROMPTS[0], 11, deep())
    assert set(map(len, blocks[1:])) == {2}


def test_theta_follows_acceptance() -> None:
    chain = LayerSkip(share=0.0).drafter(Session(deep()), Request((5,), 9, PhiloxStream(0)))
    chain._learn(0, 4)
    assert (chain.match, chain.theta) == pytest.approx((0.45, 0.801))
    for _ in range(5):
        chain._learn(4, 4)
    assert (chain.match, chain.theta) == pytest.approx((1 - 0.55 / 32, 0.801 + 0.002 - 0.003))
    before = chain.theta
    chain._learn(8, 8)
    assert chain.theta == before
    chain.session.close()


def test_sublayers_left_out_are_spread_between_the_ends() -> None:
    assert spread(2, 0.5) == spread(6, 0.0) == Skip()
    assert spread(6, 1.0) == Skip(frozenset({1, 2, 3, 4}), frozenset({1, 2, 3, 4}))
    found = spread(32, 0.45)
    assert (len(found.attention), len(found.mlp)) == (14, 13)
    assert not (found.attention | found.mlp) & {0, 31}


SELF = [Swift(window=8), Swift(window=4, theta=0.0, gamma=6, share=1.0), LayerSkip(theta=0.3),
        LayerSkip(share=1.0, gamma=4, theta=0.0, adapt=False), ExitDraft(), ExitDraft(exit=0.8, gamma=3)]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])  # tests/law has more, at the defaults
@pytest.mark.parametrize("strategy", SELF, ids=lambda s: s.spec())
def test_tokens_of_a_deep_model_are_those_of_greedy(strategy: Strategy, arch: str) -> None:
    assert all(session.draft_work.forwards for session, _ in as_greedy(strategy, deep(arch)))


@pytest.mark.parametrize("strategy", SELF, ids=lambda s: s.spec())
@torch.inference_mode()
def test_drafts_of_many_texts_are_read_together(strategy: Strategy) -> None:
    """Reads of different plans never share a forward, and nothing depends on who else is there."""
    on = deep()
    texts, new = prompts(scaled(4, 6), 97, 5), scaled(12, 20)

    def job(text: list[int], strategy: Strategy) -> tuple[list[list[int]], Work, Work]:
        session, blocks = steps(strategy, text, new, on)
        return blocks, session.work, session.draft_work
    jobs = [partial(job, text, each) for text in texts for each in (strategy, Greedy())]
    alone = [go() for go in jobs]
    before = on.forwards
    assert run_batched([on], jobs) == alone
    assert on.forwards - before < sum(work.forwards for _, work, _ in alone) / 2


@pytest.mark.parametrize("strategy", [
    LayerSkip(share=0.5, gamma=2, theta=0.3, temperature=TEMPERATURE, p=MASS),
    Swift(share=0.5, gamma=2, theta=0.3, window=1, temperature=TEMPERATURE, p=MASS),
    ExitDraft(exit=0.5, gamma=2, temperature=TEMPERATURE, p=MASS),
], ids=lambda s: s.name)
def test_the_distribution_of_a_deep_model_is_preserved(strategy: Strategy, p_value: PValue) -> None:
    assert p_value(strategy, None, deep("llama", VOCAB, 0.8, 4)) > 1e-3


@torch.inference_mode()
def test_a_plan_is_scored_by_its_agreement_with_the_text() -> None:
    """Nothing left out agrees with greedy's own text everywhere; the score is what plain forwards say."""
    session, text = Session(deep()), [*PROMPTS[0], *greedy(PROMPTS[0], 24, deep())]
    session.follow(text[:-1])
    session.read()
    search = Search(session, Swift(window=16), Request(tuple(PROMPTS[0]), 99, PhiloxStream(0)))
    assert search.score(text, Skip()) == 1.0
    hook, whole = Skip(mlp=frozenset({1, 2, 3, 4})), Session(deep())
    right = 0
    for i in range(len(text) - 16, len(text)):
        whole.follow(text[:len(text) - 17])
        whole.read()
        right += whole.draft_read(text[len(text) - 17:i], hook).best[-1] == text[i]
    assert 0 < right < 16
    assert search.score(text, hook) == right / 16
    session.close()
    whole.close()


def test_the_search_keeps_the_best_plan_and_ends() -> None:
    session, text = Session(deep()), [*PROMPTS[0], *greedy(PROMPTS[0], 24, deep())]
    session.follow(text[:-1])
    session.read()
    request = Request(tuple(PROMPTS[0]), 99, PhiloxStream(0))
    search, scores = Search(session, Swift(window=16, share=0.5, enough=1.0, patience=6), request), list[float]()
    start = search.hook
    for _ in range(40):
        search.step(text)
        scores.append(search.score(text, search.hook))
    assert scores == sorted(scores)
    assert scores[0] == search.score(text, start)
    assert len(search.hook.attention) + len(search.hook.mlp) == 4
    assert not (search.hook.attention | search.hook.mlp) & {0, 5}
    done = session.draft_work.forwards
    search.step(text)
    assert session.draft_work.forwards == done
    short = Search(session, Swift(window=50), request)
    short.step(text)
    assert session.draft_work.forwards == done
    session.close()


def searched(knobs: Swift, worth: Sequence[float], tries: int, seed: int = 0) -> tuple[float, list[Skip]]:
    """The best score, and the sets tried, where each of 12 sublayers left out adds what it is `worth`."""
    plans, session = list[Skip](), Session(deep("llama", layers=8))

    class Planted(Search):
        def score(self, text: Sequence[int], hook: Skip) -> float:
            plans.append(hook)
            return sum(worth[i - 1] for i in hook.attention) + sum(worth[i + 5] for i in hook.mlp)
    search = Planted(session, knobs, Request((3,), 99, PhiloxStream(seed)))
    for _ in range(tries):
        search.step([3] * (knobs.window + 2))
    session.close()
    return search.best_score, plans


def test_proposals_find_better_sets_than_chance() -> None:
    """Of 924 sets of 6 out of 12, the best one is mostly found by 12 proposals in 60 tries."""
    knobs, better, exact = Swift(share=0.5, enough=1.0, bayes=5, window=1), 0, 0
    for seed in range(scaled(6, 12)):
        generator = torch.Generator().manual_seed(seed)
        worth = (torch.rand(12, generator=generator) / 12).tolist()
        with_proposals, plans = searched(knobs, worth, 60, seed)
        by_chance, _ = searched(replace(knobs, bayes=0), worth, 60, seed)
        assert len(plans) == 60
        assert {len(hook.attention) + len(hook.mlp) for hook in plans} == {6}
        assert not set().union(*(hook.attention | hook.mlp for hook in plans)) & {0, 7}
        better += with_proposals > by_chance
        exact += with_proposals == pytest.approx(sum(sorted(worth)[-6:]))
        assert searched(knobs, worth, 60, seed) == (with_proposals, plans)
    assert better >= scaled(5, 10)
    assert exact >= scaled(3, 6)


def test_without_proposals_all_sets_are_random() -> None:
    """Sets are drawn one member after another; up to the first proposal the same ones are tried."""
    worth, knobs = [0.01 * i for i in range(12)], Swift(share=0.5, enough=1.0, window=1)
    stream, expected = PhiloxStream(0), [spread(8, 0.5)]
    for _ in range(39):
        weights, chosen = torch.ones(12), list[int]()
        while len(chosen) < 6:
            chosen.append(stream.choose(weights))
            weights[chosen[-1]] = 0
        expected.append(Skip(frozenset(1 + i for i in chosen if i < 6), frozenset(i - 5 for i in chosen if i >= 6)))
    assert searched(replace(knobs, bayes=0), worth, 40)[1] == expected
    tried = searched(knobs, worth, 40)[1]
    assert tried[:24] == expected[:24]
    assert tried[24] != expected[24]


@pytest.mark.parametrize("share", [0.0, 0.08, 0.92, 1.0])
def test_proposals_of_extreme_sizes(share: float) -> None:
    """With nothing to choose nothing is proposed, and one sublayer to choose is no trouble."""
    found, plans = searched(Swift(share=share, enough=1.0, bayes=1, window=1), [0.5 / 12 + 0.001 * (i == 7)
                                                                               for i in range(12)], 20)
    assert {len(hook.attention) + len(hook.mlp) for hook in plans} == {round(12 * share)}
    assert found == pytest.approx(0.5 * round(12 * share) / 12 + 0.001 * (share > 0.01))


def test_candidates_are_all_equally_likely() -> None:
    sets = proposal.drawn(6000, 4, 2, PhiloxStream(1))
    assert set(sets.sum(1).tolist()) == {2.0}
    kinds, counts = np.unique(sets @ [1, 2, 4, 8], return_counts=True)
    assert len(kinds) == 6
    assert chisquare(counts).pvalue > 1e-3


def test_the_bound_prefers_what_is_promising_and_what_is_unknown() -> None:
    tried = np.array([[1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]], dtype=float)
    close, far = [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1]
    assert proposal.best(np.array([close, far], dtype=float), tried, np.array([0.5, 0.5])) == 1
    low = [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1]]
    more, scores = np.array([*tried.tolist(), *low], dtype=float), np.array([0.9, 0.9, 0.1, 0.1, 0.1])
    assert proposal.best(np.array([low[1], [1, 0, 0, 1, 0, 0]], dtype=float), more, scores) == 1


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_tokens_with_proposals_are_those_of_greedy(arch: str) -> None:
    strategy = Swift(window=4, bayes=2, enough=1.0)
    for prompt, (session, _) in zip(PROMPTS, as_greedy(strategy, deep(arch)), strict=True):
        again, _ = steps(strategy, prompt, NEW, deep(arch))
        assert (again.work, again.draft_work) == (session.work, session.draft_work)


def test_a_comb_has_more_teeth_where_the_model_is_unsure() -> None:
    tree = comb([[4, 5, 6], [7], [8, 9]])
    assert (tree.tokens, tree.parents) == ((4, 5, 6, 7, 8, 9), (-1, -1, -1, 0, 3, 3))
    session, blocks = steps(Swift(share=0.0, theta=0.0, gamma=4), PROMPTS[0], 31, deep())
    assert [len(block) for block in blocks] == [1, 5, 5, 5, 5, 5, 5]
    assert session.work.drafted >= 3 * 24


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_no_mlp_is_left_out_above_a_cosine_of_one(arch: str) -> None:
    for strategy in (FfnSkip(threshold=1.01, cold=0, warm_up=0), FfnSkip(threshold=-1.0, share=0.0, cold=0, warm_up=0),
                     FfnSkip(threshold=-1.0, share=1.0, cold=0.5, warm_up=0), FfnSkip(threshold=-1.0, cold=0)):
        session, blocks = steps(strategy, PROMPTS[0], 26, deep(arch))
        assert [t for block in blocks for t in block] == greedy(PROMPTS[0], 26, deep(arch))
        assert (session.work.forwards, session.work.positions) == (26, len(PROMPTS[0]) + 25)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_a_low_threshold_leaves_out_the_layers_after_the_first(arch: str) -> None:
    """With every cosine good enough, the first middle layer triggers and the next two of six MLPs are skipped."""
    hook, session, text = SkipAlike(-1.0, 0.4, 1 / 6), Session(deep(arch)), PROMPTS[0]
    tree = TokenTree((5, 6, 7), (-1, -1, 0))
    found = []
    for each in (hook, Skip(mlp=frozenset({2, 3}))):
        session.follow([])
        session.follow(text)
        found.append(session.read(tree, each).logits)
    torch.testing.assert_close(found[0], found[1])
    session.close()


def test_every_token_decides_for_itself() -> None:
    """Tokens of one forward that skip and tokens that do not give what they give alone."""
    session, text = Session(deep()), list(PROMPTS[0])
    tree, alone = TokenTree(tuple(range(10, 40)), (-1,) * 30), []
    session.follow(text)
    plain = session.read(tree).logits[1:]
    merged = session.read(tree, hook := SkipAlike(0.93, 0.5, 0)).logits[1:]
    for token in tree.tokens:
        alone.append(session.read(TokenTree((token,), (-1,)), hook).logits[1])
    torch.testing.assert_close(merged, torch.stack(alone), atol=1e-4, rtol=1e-4)
    kinds = {bool((a - b).abs().max() < 1e-4) for a, b in zip(merged, plain, strict=True)}
    assert kinds == {True, False}
    session.close()


def test_sinks_and_window_that_stay() -> None:
    """Golden 20: of ten tokens 0 to 3 and 6 to 9 stay, in positions 0 to 7; larger chunks leave more room."""
    four = RecomputedWindow(sinks=4, window=4, chunk=1)
    assert [four.dropped(length) for length in (3, 8, 9, 10)] == [0, 0, 1, 2]
    chunks = RecomputedWindow(sinks=2, window=10, chunk=4)
    assert [chunks.dropped(length) for length in (12, 13, 16, 17, 40)] == [0, 4, 4, 8, 28]
    with pytest.raises(UserError, match="larger than the window"):
        RecomputedWindow(window=8, chunk=9)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_recomputed_window_is_greedy_on_the_shortened_text(arch: str) -> None:
    on, prompt = target(arch), [*PROMPTS[0], *PROMPTS[1]]
    exact = RecomputedWindow(sinks=4, window=len(prompt) + 16, chunk=5)
    _, blocks = steps(exact, prompt, 20, on)
    assert [t for block in blocks for t in block] == greedy(prompt, 20, on)
    strategy = RecomputedWindow(sinks=3, window=9, chunk=4)
    session, blocks = steps(strategy, prompt, 30, on)
    text = list(prompt)
    for block in blocks:
        kept = text[:3] + text[3 + strategy.dropped(len(text)):]
        assert len(kept) <= 12
        with torch.inference_mode():
            text.append(int(on.model(torch.tensor([kept])).logits[0, -1].argmax()))
        assert block == text[-1:]
    assert text[len(prompt):] != greedy(prompt, 30, on)
    assert session.work.positions < 30 * 4


def test_the_distribution_of_a_sequence_that_fits_is_preserved(p_value: PValue) -> None:
    assert p_value(RecomputedWindow(temperature=TEMPERATURE, p=MASS), None) > 1e-3
