"""Draft lengths by load: the table, goodput and what a session knows of its batch."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.decoding.accept import rejection
from harness.decoding.loop import Step
from harness.engine.batching import run_batched
from harness.engine.logit_warps import identity
from harness.engine.random_stream import PhiloxStream, Stream
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.errors import UserError
from strategies.drafters.chain import ModelChain
from strategies.drafters.length import best_gamma
from strategies.drafters.load import TABLE, Goodput, Load, Table, Tetris, entries, selected
from strategies.greedy import Greedy
from strategies.self_consistency import SelfConsistency
from strategies.speculative import Speculative
from tests.chances import by_token, draft
from tests.decode import decode, traced
from tests.drafting import model
from tests.law.test_accept import P, Q, law, logits
from tests.models import prompts


def batch_of(count: int, share: float = 0.0) -> Load:
    load = Load(SimpleNamespace(in_flight=count, engine=None), 153)  # type: ignore[arg-type]
    load.__dict__["share"] = share
    return load


def goodput(alpha: float, count: int, context: int = 0, share: float = 0.0) -> int:
    policy = Goodput(64, 0.05, batch_of(count, share))
    policy.accepted, policy.verified = round(1000 * alpha), 1000
    return policy.most(context)


def test_the_best_lengths_of_a_batch() -> None:
    """Specs/speculative, golden 16, by the policy; poor acceptance alone never ends drafting, load does."""
    found = [[goodput(alpha, count) for count in (1, 8, 32, 64, 128)] for alpha in (0.8, 0.6)]
    assert found == [[8, 8, 4, 2, 1], [4, 4, 3, 1, 0]]
    assert [goodput(0.01, count) for count in (1, 8, 64, 128)] == [1, 1, 1, 0]
    default = Table(4, entries("x", TABLE), lambda: 0)
    assert [(entry.batch, entry.gamma) for entry in default.entries] == list(zip((1, 32, 64, 128), (4, 3, 1, 0),
                                                                                 strict=True))


def test_a_long_context_makes_drafts_longer_in_a_batch() -> None:
    """The KV cache is read once a forward, however many tokens are verified."""
    lengths = [goodput(0.6, 64, context, share=1e-5) for context in (0, 1000, 2000, 4000)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (1, 4)
    verify = batch_of(64, 1e-5).verify(2000)
    assert (verify(1), verify(4), verify(8)) == (1, 1, pytest.approx(64 * 8 / 153 / 2.28))
    assert [batch_of(1).verify(0)(tokens) for tokens in (1, 153, 306)] == [1, 1, 2]


def test_goodput_follows_acceptance() -> None:
    policy = Goodput(64, 0.05, batch_of(1))
    assert policy.most(0) == best_gamma(0.5, 0.05, 64)
    for _ in range(50):
        policy.observe(policy.most(0), policy.most(0))
    assert policy.most(0) > 20


def test_the_last_entry_that_fits_counts() -> None:
    table, batch = entries("x", "1:7; 4:5;16:1 ;32:0"), [0]
    policy = Table(6, table, lambda: batch[0])

    def at(count: int, context: int = 10) -> int:
        batch[0] = count
        return policy.most(context)
    assert [at(count) for count in (1, 3, 4, 15, 16, 31, 32, 999)] == [6, 6, 5, 5, 1, 1, 0, 0]
    policy.entries = entries("x", "1:4;8:0;8@100:3;16@200:2")
    assert [at(count, context) for count, context in ((1, 500), (8, 99), (8, 100), (16, 199), (16, 200))] == [
        4, 0, 3, 3, 2]


@pytest.mark.parametrize("text", ["", ";", "2:4", "1@5:4", "1:4;x", "1:-1", "1:4,2:3", "1-4:5", "0@1:2;1:1"])
def test_a_table_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="table must list a draft length"):
        entries("speculative", text)
    if text:
        with pytest.raises(UserError, match="table must list"):
            Speculative(table=text)


@torch.inference_mode()
def test_a_session_knows_how_many_sequences_are_decoded() -> None:
    """Alone, in a batch whose sequences end one after the other, and in a batch of a sequence's own."""
    counts = list[int]()

    def job(new: int) -> None:
        session = Session(model())
        session.follow([5, 6, 7])
        for _ in range(new):
            session.follow([*session.tokens, session.read().best[0]])
            counts.append(session.in_flight)
        session.close()
    job(2)
    run_batched([model()], [partial(job, new) for new in (1, 2, 2, 5)])
    assert counts == [1, 1, 4, 3, 3, 3, 3, 3, 2, 1, 1, 1]


@torch.inference_mode()
def test_samples_of_one_prompt_count_each() -> None:
    seen = list[int]()

    def noted(self: Load) -> int:
        seen.append(self.session.in_flight)
        return self.session.in_flight
    patch = pytest.MonkeyPatch()
    patch.setattr(Load, "sequences", noted)
    strategy = SelfConsistency(n=3, over=Speculative(policy="table", temperature=1.0))
    job: Callable[[], Any] = partial(decode, strategy, model(), prompts(1, 97, 1)[0], draft=model(1), new=6, eos=None)
    run_batched([model(), model(1)], [job, job])
    patch.undo()
    assert seen[0] == 6
    assert seen == sorted(seen, reverse=True)


@torch.inference_mode()
def test_drafts_stop_while_the_batch_is_large() -> None:
    """The tokens are those of greedy whatever is drafted; with a batch of three nothing is."""
    texts = prompts(3, 97, 6)
    strategy = Speculative(policy="table", table="1:3;3:0", gamma=3)
    expected = [decode(Greedy(), model(), text, new=20, eos=None) for text in texts]

    def run(count: int) -> list[Any]:
        jobs = [partial(traced, strategy, model(), text, draft=model(), new=20, eos=None) for text in texts[:count]]
        return run_batched([model(), model(0)], jobs)
    for count, drafted in ((1, True), (2, True), (3, False)):
        results = run(count)
        assert [tokens for tokens, _, _ in results] == expected[:count]
        assert all((work.drafted > 0) == drafted for _, work, _ in results)
    assert results[0][1].forwards == 20


def test_the_likeliest_tokens_of_a_batch() -> None:
    """The golden of the method, and every capacity against all choices of prefixes."""
    drafts = [[0.9, 0.8, 0.7], [0.5, 0.4, 0.9]]
    assert selected(drafts, 4) == [3, 1]
    drafts = [[0.9, 0.8, 0.1], [], [0.5, 0.95], [0.6]]
    for capacity in range(8):
        lengths = selected(drafts, capacity)
        assert sum(lengths) == min(capacity, 6)

        def expected(chosen: Sequence[int]) -> float:
            return sum(prod(draft[:end]) for draft, length in zip(drafts, chosen, strict=True)
                       for end in range(1, length + 1))
        assert expected(lengths) == pytest.approx(max(
            expected(chosen) for chosen in product(*(range(1 + len(draft)) for draft in drafts))
            if sum(chosen) <= capacity))
    assert selected([[0.5, 1.0], [0.5, 1.0]], 2) == [1, 1]


def test_what_is_verified_must_not_depend_on_what_was_drawn() -> None:
    """A batch that verifies one token, of this sequence or of one whose token has probability 0.25."""
    q = torch.tensor(Q, dtype=torch.float64)

    def emitted(drawn: bool) -> list[float]:
        def run(stream: Stream) -> tuple[int, ...]:
            token = stream.choose(q)
            kept = selected([[float(q[token] if drawn else q.max())], [0.25]], 1)[0]
            path, other = rejection(TokenTree.chain([token][:kept], [q][:kept]), logits(P, P), stream)
            return (token if path else other,)
        found = law(run)
        return [found[token,] for token in range(3)]
    assert emitted(drawn=False) == pytest.approx(P)
    assert emitted(drawn=True) == pytest.approx([0.40, 0.36, 0.24])


def test_a_draft_model_tells_its_largest_probabilities() -> None:
    told = list[tuple[list[float], int]]()
    session: Any = SimpleNamespace(in_flight=1, gather=lambda value: (told.append(value) or told[-1:], 0), engine=None)
    small, prompt = Session(model(1)), prompts(1, 97, 1)[0]
    policy = Tetris(5, entries("x", "1:3"), Load(session, 153))
    tree = ModelChain(small, policy, identity, PhiloxStream(0)).draft(prompt, Step(EMPTY, None, (), 0), 9)  # type: ignore[arg-type]
    small.close()
    (likeliest, length), = told
    assert (len(tree), len(likeliest), length) == (3, 5, 3)
    assert likeliest[:3] == [float(tree.probs[node - 1].max()) for node in range(3)]


@torch.inference_mode()
def test_a_batch_verifies_as_many_as_the_table_allows() -> None:
    """Sequences that are prefilled or ending draft nothing, and hold nobody up."""
    texts, met = prompts(5, 97, 6), list[int]()
    strategy = Speculative(policy="tetris", table="1:2", gamma=4)
    expected = [decode(Greedy(), model(), text, new=10 + 3 * i, eos=None) for i, text in enumerate(texts)]
    gather = Session.gather

    def noted(self: Session, value: Any) -> Any:
        values, place = gather(self, value)
        if not place:
            met.append(len(values))
            lengths = selected([draft for draft, _ in values], 2 * len(values))
            assert sum(lengths) <= 2 * len(values)
        return values, place
    patch = pytest.MonkeyPatch()
    patch.setattr(Session, "gather", noted)
    jobs = [partial(traced, strategy, model(), text, draft=model(1), new=10 + 3 * i, eos=None)
            for i, text in enumerate(texts)]
    results: list[Any] = run_batched([model(), model(1)], jobs, 4)  # the fifth starts when one has ended
    patch.undo()
    assert [tokens for tokens, _, _ in results] == expected
    assert met[0] == 4
    assert 1 in met
    assert any(work.drafted % 2 for _, work, _ in results)  # not two each
    alone = traced(strategy, model(), texts[0], draft=model(1), new=20, eos=None)
    plain = traced(Speculative(gamma=2), model(), texts[0], draft=model(1), new=20, eos=None)
    assert alone[:2] == plain[:2]
    assert alone[2].forwards > plain[2].forwards


@torch.inference_mode()
def test_a_sequence_that_fails_ends_the_batch_while_others_wait() -> None:
    def job(number: int) -> list[int]:
        session = Session(model())
        try:
            session.follow([5, 6, 7 + number])
            session.read()
            values, place = session.gather(number)
            if number == 1:
                raise ValueError("broken")
            return [*values, place]
        finally:
            session.close()
    assert run_batched([model()], [partial(job, number) for number in (0, 2, 4)]) == [
        [0, 2, 4, 0], [0, 2, 4, 1], [0, 2, 4, 2]]
    with pytest.raises(ValueError, match="broken"):
        run_batched([model()], [partial(job, number) for number in (0, 1, 2)])
    assert model().open_rows == 0
    alone = Session(model())
    assert alone.gather("x") == (["x"], 0)
    alone.close()


@pytest.mark.parametrize("policy", ["table", "goodput", "tetris"])
def test_load_keeps_the_distribution(policy: str) -> None:
    """64 sequences at first, which become fewer."""
    strategy = Speculative(policy=policy, table="1:4;16:2;48:1;64:2", gamma=5, temperature=0.8, p=0.9)
    assert by_token(strategy, draft) > 1e-3
