"""Texts side by side: which reads share a forward, who waits for whom, and what happens when room or a text fails."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from random import Random

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest, ForwardRows
from harness.engine.kept_prefix import pin
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Strategy
from strategies.beam import Beam
from strategies.greedy import Greedy
from tests.decode import built, decode, engine
from tests.models import prompts, tiny_model
from tests.scale import scaled

VOCAB = 97
ALL = sorted(STRATEGIES.built_in())


def engines() -> list[Engine]:
    return [engine(tiny_model("llama")), engine(tiny_model("llama", seed=5))]


@cache
def kept() -> list[Engine]:
    """Return engines for tests that leave them as they were."""
    return engines()


def job(pair: list[Engine], strategy: Strategy, prompt: Sequence[int], new: int) -> Callable[[], list[int]]:
    return partial(decode, strategy, pair[0], list(prompt), draft=pair[1] if "draft" in strategy.needs else None,
                   new=new, eos=None)


def jobs(pair: list[Engine], count: int, seed: int = 3) -> list[Callable[[], list[int]]]:
    """Samples of all strategies in turn, with prompts and lengths of their own."""
    random = Random(seed)
    prompts = [tuple(random.randrange(3, VOCAB) for _ in range(random.randrange(2, 90))) for _ in range(count)]
    return [job(pair, built(ALL[i % len(ALL)]), prompt, random.randrange(1, 24))
            for i, prompt in enumerate(prompts)]


@torch.inference_mode()
def test_strategies_of_all_kinds_run_side_by_side_with_the_tokens_they_have_alone() -> None:
    alone = [each() for each in jobs(engines(), len(ALL))]
    for most in (3, 0)[:scaled(1, 2)]:
        pair, at_work, most_at_work = engines(), set[int](), list[int]()

        def watched(number: int, go: Callable[[], list[int]], here: set[int] = at_work, seen: list[int] = most_at_work
                    ) -> list[int]:
            here.add(number)
            seen.append(len(here))
            tokens = go()
            here.remove(number)
            return tokens
        assert run_batched(pair, [partial(watched, *each) for each in enumerate(jobs(pair, len(alone)))], most) == alone
        assert max(most_at_work) == (most or len(alone))
        assert [engine.open_rows for engine in pair] == [0, 0]


@torch.inference_mode()
def test_drafts_are_finished_before_the_target_checks_them() -> None:
    pair = engines()
    four = [job(pair, STRATEGIES.build("speculative:gamma=3"), (5, 6, 7 + i), 12) for i in range(4)]
    alone = 0
    for each in four:
        before = pair[0].forwards
        each()
        alone = max(alone, pair[0].forwards - before)
    before = pair[0].forwards
    run_batched(pair, four)
    assert pair[0].forwards - before == alone, "the target was asked more often than by the slowest text alone"


@torch.inference_mode()
def test_a_prompt_does_not_pad_the_others() -> None:
    big = engines()[0]
    greedy = STRATEGIES.build("greedy")
    late = job([big, big], greedy, tuple(5 + i % 90 for i in range(400)), 4)
    many = [job([big, big], greedy, (5, 6 + i), 3 + i) for i in range(8)]
    run_batched([big], [*many, late], 8)
    assert big.padding < 0.1 * big.positions, "the late prompt was read together with single tokens"


@torch.inference_mode()
def test_a_full_cache_means_fewer_at_a_time_and_a_sentence_for_what_fits_nowhere() -> None:
    alone, pair = [each() for each in jobs(engines(), 12)], engines()
    job(pair, STRATEGIES.build("speculative"), (5, 6), 2)()  # the caches now know their shapes
    for one in pair:
        one.cache.budget = 700 * one.cache.slot_bytes()
    small = jobs(pair, 12)
    assert run_batched(pair, small, 12) == alone
    assert pair[0].cache.rows * pair[0].cache.slots <= 700
    huge = job(pair, STRATEGIES.build("greedy"), tuple(5 + i % 90 for i in range(490)), 4)
    for one in pair:
        one.cache.budget = 300 * one.cache.slot_bytes()
    found = run_batched([*pair], [small[0], huge, small[1]], 3)
    assert isinstance(found[1], CacheFull)
    assert "raise --cache-gb" in str(found[1])
    assert [found[0], found[2]] == alone[:2]
    assert [engine.open_rows for engine in pair] == [0, 0]


@torch.inference_mode()
def test_a_soak_of_mixed_samples_leaks_no_row_and_keeps_the_cache_flat() -> None:
    pair, random = engines(), Random(7)

    def failing(go: Callable[[], list[int]], when: int) -> Callable[[], object]:
        """Fails at the `when`-th read, as a model out of memory would."""
        def run() -> object:
            session = Session(pair[0])
            try:
                for turn in range(when):
                    session.follow([5, 6, turn + 7])
                    session.read(TokenTree.chain([8, 9]))
                    if turn == when - 1:
                        session.follow([VOCAB + 9])
                        session.read()
                return go()
            except IndexError:
                return "failed"
            finally:
                session.close()
        return run
    sizes = []
    for batch in range(scaled(4, 5)):
        mixed = [failing(go, random.randrange(1, 4)) if batch and random.random() < 0.2 else go
                 for go in jobs(pair, scaled(50, len(ALL)))]  # the same lengths in each batch: a longer one needs more
        found = run_batched(pair, mixed, 8)
        assert all(said == "failed" or isinstance(said, list) for said in found)
        assert [engine.open_rows for engine in pair] == [0, 0]
        sizes.append([(engine.cache.rows, engine.cache.slots) for engine in pair])
    assert sizes[3:] == sizes[2:-1]


@pytest.mark.parametrize("name", ALL)
@torch.inference_mode()
def test_a_shared_prefix_is_read_once_and_changes_no_token(name: str) -> None:
    pair, strategy, new = kept(), built(name), scaled(4, 8)
    start = [3 + i * 7 % 90 for i in range(40)]
    prompts = [(*start, 5, 6), (*start[:30], 9), tuple(start), (9, *start)][:scaled(2, 4)]
    alone = [job(pair, strategy, prompt, new)() for prompt in prompts]
    for one in pair:
        pin(one, start)
    session = Session(pair[0])
    session.follow(prompts[0])
    session.read()
    assert (session.work.positions, session.work.shared) == (2, 40)
    session.close()
    assert [job(pair, strategy, prompt, new)() for prompt in prompts] == alone
    assert run_batched(pair, [job(pair, strategy, prompt, new) for prompt in prompts], 2) == alone
    for one in pair:
        one.unpin()
    assert [engine.open_rows for engine in pair] == [0, 0]


def test_a_cache_without_a_budget_grows_as_asked() -> None:
    big = engines()[0]
    big.cache.reserve(33, 400)
    assert big.cache.rows >= 33
    assert big.cache.slots >= 400


@torch.inference_mode()
def test_texts_that_start_later_start_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    big, greedy, starts = engines()[0], STRATEGIES.build("greedy"), list[int]()
    plain = big.run

    def run(requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
        starts.append(sum(len(request.tokens) > 1 for request in requests))
        return plain(requests)
    monkeypatch.setattr(big, "run", run)
    run_batched([big], [job([big, big], greedy, (5, 6), 3 + i % 16) for i in range(64)], 16)
    assert (starts[0], sum(starts)) == (16, 64)
    assert min([n for n in starts if n][:-1]) == 2  # the last one may be alone


@torch.inference_mode()
def test_memory_that_one_text_needed_is_given_back_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    target, texts = Engine(tiny_model("llama"), 512), prompts(3, 97, 9)
    start = texts[0] * 3
    expected = decode(Greedy(), target, [*start, *texts[1]])
    pin(target, start)
    target.cache.reserve(4, 64)
    decode(Beam(width=24), target, texts[2], new=40)
    decode(STRATEGIES.build("temperature+best_of_n:n=9"), target, texts[2])
    rows, slots = target.cache.rows, target.cache.slots
    target.cache.trim(4, 64)
    assert (target.cache.rows, target.cache.slots) == (rows, slots), "little is not worth giving back"
    monkeypatch.setattr("harness.engine.cache.LARGE", 0)
    target.cache.trim(4, 64)
    assert (target.cache.rows, target.cache.slots) == (4, 64)
    assert rows * slots > 4 * 4 * 64
    assert decode(Greedy(), target, [*start, *texts[1]]) == expected
    assert decode(Beam(width=24), target, texts[2], new=40)
    target.unpin()
    assert target.open_rows == 0


@torch.inference_mode()
def test_rows_that_nobody_uses_give_way_to_long_ones() -> None:
    target, texts = Engine(tiny_model("llama"), 512), prompts(3, 97, 9)
    expected = decode(Beam(width=24), target, texts[0] * 9, new=40)
    target = Engine(tiny_model("llama"), 512)
    decode(STRATEGIES.build("temperature+best_of_n:n=30"), target, texts[1])
    rows, slots = target.cache.rows, target.cache.slots
    target.cache.budget = rows * slots * target.cache.slot_bytes()
    session = Session(target)
    session.follow(texts[2])
    before = session.read().logits
    assert decode(Beam(width=24), target, texts[0] * 9, new=40) == expected
    assert target.cache.slots > slots
    assert target.cache.rows < rows
    session.follow([*texts[2], 5])
    after = session.read().logits
    session.follow(texts[2])
    assert torch.allclose(session.read().logits, before, atol=1e-5)
    session.follow([*texts[2], 5])
    assert torch.allclose(session.read().logits, after, atol=1e-5)
    session.close()
