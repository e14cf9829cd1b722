"""Policies that choose keys by attention, against plain computations that never drop a key but mask it."""

from collections.abc import Sequence
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.cache_policy import CachePolicy
from harness.engine.engine import Engine
from harness.engine.heed import highest
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import Unsupported, UserError
from harness.models.attention import FEW, use_fast_attention
from harness.plugins.registry import STRATEGIES
from strategies.alisa import SparseWindow
from strategies.h2o import HeavyHitters
from strategies.quest import Pages, bounds, upper
from strategies.snapkv import Observed, capacities, smoothed
from strategies.tova import LastAttention
from tests.attention_by_hand import (
    PROMPT,
    TEXT,
    HeavyByHand,
    LastByHand,
    PagesByHand,
    Reference,
    SnapByHand,
    StepsByHand,
    forced,
)
from tests.decode import decode, engine
from tests.models import prompts, tiny_model

SMALL = ("h2o:heavy=0.2,recent=0.1", "tova:budget=9", "snapkv:win=4,cap=9,kernel=3",
         "snapkv:win=4,cap=9,kernel=3,shape=pyramid,beta=5", "quest:budget=8,page=2,dense=0",
         "quest:budget=8,page=2,dense=0,variant=frontier", "alisa:budget=8,steps=3")


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def rule(name: str, on: Engine) -> tuple[CachePolicy, Reference, int]:
    """A policy, what it should be, and the most keys that it keeps after a prompt of 30 tokens."""
    if name.startswith("h2o"):
        norm = name[4:]
        return HeavyHitters(0.2, 0.1, norm, "sum"), HeavyByHand(on, 6, 3, norm), 9
    if name == "tova":
        return LastAttention(9), LastByHand(on, 9), 9
    if name == "snapkv":
        return Observed(4, 10, 3, "avg", 1), SnapByHand(on, 4, (10, 10), 3), 50
    if name == "pyramid":
        return Observed(4, 14, 5, "avg", 5), SnapByHand(on, 4, (22, 6), 5), 62
    if name == "alisa":
        return SparseWindow(3, 4, 3), StepsByHand(on, 3, 4, 3), 1000
    if name == "snapkv share":
        return Observed(4, 99, 3, "avg", 1, 1 / 3), SnapByHand(on, 4, (10, 10), 3), 50
    if name == "quest share":
        return Pages(4, 99, 0, False, 0.3), PagesByHand(on, 4, 99, 0, False, 0.3), 1000
    shared = name == "frontier"
    return Pages(4, 3, 1 - shared, shared), PagesByHand(on, 4, 3, 1 - shared, shared), 1000


NAMES = ("h2o sum", "h2o mean", "tova", "snapkv", "pyramid", "quest", "frontier", "alisa", "snapkv share",
         "quest share")


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("name", NAMES)
def test_policies_are_masks_that_are_computed_by_hand(name: str, arch: str) -> None:
    on = target(arch)
    policy, reference, most = rule(name, on)
    wanted = reference(TEXT[:70], PROMPT)
    found = forced(policy, on, most=most)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    dense = forced(CachePolicy(), on)
    assert not torch.allclose(found, dense, atol=0.05), "the policy changes what is read"


@pytest.mark.parametrize("name", ["h2o sum", "h2o mean", "tova", "alisa"])
def test_keys_are_dropped_between_forwards(name: str) -> None:
    """Tokens that are read together see each other's keys and those that were kept before."""
    policy, reference, most = rule(name, target())
    wanted = reference(TEXT[:70], PROMPT, at_once=5)
    torch.testing.assert_close(forced(policy, target(), at_once=5, most=most), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_read_in_parts_is_one_prompt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = forced(rule(name, target())[0], target(), TEXT[:40])
    monkeypatch.setattr("harness.engine.session.PREFILL", 7)
    torch.testing.assert_close(forced(rule(name, target())[0], target(), TEXT[:40]), wanted, rtol=1e-3, atol=1e-3)


def said(session: Session, text: Sequence[int], tree: TokenTree | None = None) -> Tensor:
    session.follow(text)
    return session.read(*([tree] if tree else [])).logits[0]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_only_accepted_candidates_count(name: str) -> None:
    """A path of a tree that is accepted leaves what a draft of that path alone leaves."""
    session, plain = Session(target()), Session(target())
    policy, text, path = rule(name, target())[0], TEXT[:PROMPT], (5, 9, 4)
    tree = TokenTree((8, 5, 7, 9, 6, 4, 3), (-1, -1, 0, 1, 1, 3, 3))
    with session.with_cache_policy(policy), plain.with_cache_policy(policy):
        for each in (session, plain):
            said(each, text)
        said(session, [*text, 11], tree)
        session.keep([1, 3, 5])
        said(plain, [*text, 11], TokenTree.chain(path))
        plain.keep([0, 1, 2])
        for end in range(1, 6):
            found, wanted = (said(each, [*text, 11, *path, *TEXT[40:40 + end]]) for each in (session, plain))
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    session.close()
    plain.close()


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_fork_goes_on_as_the_original_does(name: str) -> None:
    session, policy = Session(target()), rule(name, target())[0]
    with session.with_cache_policy(policy):
        for end in (PROMPT, PROMPT + 3, PROMPT + 4):
            said(session, TEXT[:end])
        other = session.fork()
        said(other, [*TEXT[:PROMPT + 4], 9, 8, 7])
        for end in (PROMPT + 5, PROMPT + 6, PROMPT + 9):
            found, wanted = (said(each, TEXT[:end]) for each in (session.fork(), session))
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    session.close()


@pytest.mark.parametrize("name", ["h2o sum", "tova", "pyramid", "alisa"])
@torch.inference_mode()
def test_a_sequence_that_goes_back_or_begins_anew_is_a_prompt_again(name: str) -> None:
    policy, fresh = rule(name, target())[0], Session(target())
    with fresh.with_cache_policy(policy):
        wanted = [said(fresh, text) for text in (TEXT[:PROMPT - 5], TEXT[:PROMPT - 4])]
    session = Session(target())
    with session.with_cache_policy(policy):
        for start in (TEXT[5:], TEXT):  # of one, nothing is the prefix of what follows
            for end in (PROMPT, PROMPT + 1, PROMPT + 9):
                said(session, start[:end])
            found = [said(session, text) for text in (TEXT[:PROMPT - 5], TEXT[:PROMPT - 4])]
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    session.close()
    fresh.close()


@pytest.mark.parametrize("policy", [LastAttention(60), Observed(4, 10, 3, "avg", 1), Pages(4, 3, 0, False)])
@torch.inference_mode()
def test_what_nothing_depends_on_is_taken_back(policy: CachePolicy) -> None:
    session, found = Session(target()), dict[int, Tensor]()
    with session.with_cache_policy(policy):
        for end in (PROMPT, PROMPT + 1, PROMPT + 5, PROMPT + 8, PROMPT + 20):
            found[end] = said(session, TEXT[:end])
        for end in (PROMPT + 5, PROMPT + 8, PROMPT + 20):
            torch.testing.assert_close(said(session, TEXT[:end]), found[end], rtol=1e-3, atol=1e-3)
    assert session.work.positions == PROMPT + 20 + 1 + 15
    session.close()


def written(spec: str, new: int = 30) -> list[int]:
    return decode(STRATEGIES.build(spec), target(), TEXT[:20], new=new, eos=None)


def test_with_room_for_the_whole_text_a_policy_is_the_other_strategy() -> None:
    large = ("h2o:heavy=1,recent=1.5", "h2o:heavy=3,recent=0,norm=mean,share=max", "tova:budget=50",
             "snapkv:cap=21,win=4", "alisa:budget=50", "quest:budget=50,page=5,dense=0",
             "quest:budget=1,page=1,dense=2", "quest:share=1,page=3,dense=0", "snapkv:share=1,win=4")
    for over in ("greedy", "temperature", "beam:width=3", "prompt_lookup"):
        plain = written(over)
        for spec in large:
            assert written(f"{over}+{spec}") == plain, spec
    for spec in SMALL:
        assert written(f"greedy+{spec}") != written("greedy"), spec


def test_last_keys_alone_are_a_window() -> None:
    window = written("window:window=6", 60)
    assert window != written("window:window=9", 60)
    assert written("h2o:heavy=0,recent=0.3", 60) == written("alisa:budget=6,local=1", 60) == window


def test_a_flat_pyramid_is_snapkv() -> None:
    flat, pyramid = (written(f"snapkv:win=4,cap=9,kernel=3,shape={shape}", 60) for shape in ("flat", "pyramid,beta=1"))
    assert flat == pyramid


def test_only_policies_that_choose_after_each_forward_see_drafts() -> None:
    for spec in SMALL:
        plain = written(f"greedy+{spec}", 40)
        same = [written(f"{over}+{spec}", 40) == plain for over in ("prompt_lookup", "token_recycling")]
        assert all(same) == spec.startswith(("snapkv", "quest")), spec


def test_a_search_keeps_to_what_is_left_of_the_prompt() -> None:
    for spec in (*SMALL[2:6], "window:window=5", "streaming:sinks=2,window=5"):
        assert written(f"beam:width=1+{spec}") == written(f"greedy+{spec}"), spec
    for spec in SMALL:
        assert written(f"beam:width=3+{spec}") != written("beam:width=3"), spec


@torch.inference_mode()
def test_texts_decoded_together_get_the_tokens_that_they_get_alone() -> None:
    for spec in SMALL:
        jobs = [partial(decode, STRATEGIES.build(f"prompt_lookup+{spec}"), target(), text * 2, new=16)
                for text in prompts(5, 97, 5)]
        assert run_batched([target()], jobs, 4) == [job() for job in jobs], spec


@torch.inference_mode()
def test_the_fast_attention_of_large_batches_obeys_policies() -> None:
    model = tiny_model("llama", layers=2)
    model.set_attn_implementation("sdpa")
    use_fast_attention(model)
    fast, texts = engine(model), [text * 2 for text in prompts(FEW + 1, 97, 5)]
    for spec in SMALL:
        strategy = STRATEGIES.build(f"greedy+{spec}")
        jobs = [partial(decode, strategy, fast, text, new=8) for text in texts]
        assert run_batched([fast], jobs) == [decode(strategy, target(), text, new=8) for text in texts], spec


def test_the_scores_of_heavy_hitters() -> None:
    """Golden: the sums are 2.2, 1.1, 0.4 and 0.3; one heavy and one recent key are 0 and 3."""
    rows = torch.tensor([[1, 0, 0, 0], [0.6, 0.4, 0, 0], [0.5, 0.2, 0.3, 0], [0.1, 0.5, 0.1, 0.3]])
    torch.testing.assert_close(rows.sum(0), torch.tensor([2.2, 1.1, 0.4, 0.3]))
    assert highest(rows.sum(0), 1, 1).tolist() == [0, 3]
    assert highest(torch.tensor([[1.0, 2.0, 2.0, 2.0, 9.0]]), 2, 1).tolist() == [[1, 2, 4]], "the first of equal scores"


def test_scores_are_smoothed_over_neighbours() -> None:
    """Golden: of five keys, a mean over three keeps 2 and 3, no smoothing 3 and 4, and a maximum has ties."""
    scores = torch.tensor([[0.15, 0.35, 0.10, 0.45, 0.40]])
    mean = smoothed(scores, 3, "avg")
    torch.testing.assert_close(mean, torch.tensor([[0.1667, 0.2, 0.3, 0.3167, 0.2833]]), rtol=0, atol=5e-5)
    assert highest(mean, 2).tolist() == [[2, 3]]
    assert highest(smoothed(scores, 1, "avg"), 2).tolist() == [[3, 4]]
    torch.testing.assert_close(smoothed(scores, 3, "max")[0, 2:], torch.full((3,), 0.45))


def test_the_layers_of_a_pyramid() -> None:
    assert capacities(72, 8, 20, 1000, 4) == [133, 93, 53, 13]
    ten = capacities(72, 8, 20, 1000, 10)
    assert (ten, sum(ten) / 10) == ([133, 120, 107, 94, 81, 68, 55, 42, 29, 16], 74.5)
    assert capacities(72, 8, 20, 100, 4) == [100, 82, 64, 46]
    assert capacities(72, 8, 1, 1000, 4) == [72] * 4


def test_the_bounds_of_pages() -> None:
    """Golden: two pages are bounded by 2 and 1; a page of which nothing is seen is never chosen."""
    key = torch.tensor([[0.0, -1], [1, 2], [-2, 3], [-1, -2], [5, -5]])[None, None]
    low, high = bounds(key, torch.tensor([[0, 0, 1, 1, 3]]), 3)
    assert (low[0, 0, :2].tolist(), high[0, 0, :2].tolist()) == ([[0, -1], [-2, -2]], [[1, 2], [-1, 3]])
    assert upper(torch.tensor([[[[1.0, -1.0]]]]), low, high).tolist() == [[[[2, 1, -torch.inf]]]]


@pytest.mark.parametrize(("spec", "says"), [("snapkv:cap=8,win=8", "cap must be more than win"),
                                            ("snapkv:kernel=4", "kernel must be odd"),
                                            ("quest:budget=0", "must be at least 1")])
def test_settings_that_make_no_sense_are_refused(spec: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        STRATEGIES.build(spec)


def test_policies_need_attention_to_all_tokens_in_all_layers() -> None:
    on = Engine(tiny_model("llama"), 64)
    on.windows.size = 9
    with pytest.raises(Unsupported, match="all attend to all tokens"):
        decode(STRATEGIES.build("tova"), on, TEXT[:5])
