"""Cascades: one member is itself, any members are exact, and each mode drafts what it should."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.decoding.accept import Accept, delta, rejection, rejection_without_replacement
from harness.decoding.loop import Drafter, Step
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import Stream
from harness.engine.tree import EMPTY, TokenTree
from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from strategies.cascade import Cascade
from strategies.drafters.cascaded import Cascaded, Member, Part
from strategies.drafters.trie import joined
from strategies.greedy import Greedy
from strategies.suffix_decoding import SuffixDecoding
from tests.decode import decode, engine, traced
from tests.law.test_accept import conditional, drafted, law
from tests.law.test_rules import autoregressive, complete, read, same, vector
from tests.models import prompts, tiny_model
from tests.scale import scaled

MEMBERS = ["prompt_lookup", "ngram_pool:n=2;n_min=1;n_max=8", "token_recycling:nodes=16", "suffix_decoding:min_prob=0",
           "jacobi:block=4", "tr_jacobi:nodes=16", "lookahead:window=3", "layer_skip:gamma=4", "eagle2:nodes=8",
           "suffix_automaton:len_threshold=2;fallback=token_recycling", "speculative:policy=ema;threshold=0.3",
           "speculative:verify=block", "specinfer", "spectr:chains=2", "rsd_s", "dyspec:nodes=8", "staged"]
PAIRS = [("prompt_lookup>speculative:gamma=2", "extend"), ("speculative:gamma=2>prompt_lookup", "extend"),
         ("token_recycling:nodes=16>ngram_pool:n=2;n_min=1;n_max=8>speculative:gamma=3", "extend"),
         ("specinfer:expansion=2-2>prompt_lookup", "extend"), ("rsd_s>prompt_lookup", "extend"),
         ("eagle2:nodes=8>prompt_lookup", "extend"), ("lookahead:window=3>prompt_lookup", "extend"),
         ("prompt_lookup>layer_skip:gamma=3>eagle2:nodes=8>jacobi:block=4", "best"),
         ("suffix_decoding>layer_skip:gamma=2", "best"), ("prompt_lookup>spectr:chains=2", "best"),
         ("prompt_lookup:min_ngram=2>rsd_s", "first"), ("suffix_decoding>dyspec:nodes=8", "first"),
         ("layer_skip:gamma=3>token_recycling:nodes=16", "best"), ("aded>speculative:verify=block", "first")]
PROMPT = prompts(2, 97, 1)[1] * 2
NEW = scaled(10, 30)


@cache
def model(seed: int = 0) -> Engine:
    return engine(tiny_model("llama", seed=seed, layers=3))


def draft_for(strategy: Any, seed: int = 1) -> Engine | None:
    return model(seed) if "draft" in strategy.needs else None


@pytest.mark.parametrize("mode", ["first", "best", "extend"])
@pytest.mark.parametrize("member", MEMBERS)
def test_one_member_is_itself(member: str, mode: str) -> None:
    """In tokens and in all counts, at temperature 0 and above it."""
    for temperature in {"first": (0.0, 0.8), "best": (0.8,), "extend": (0.8,)}[mode]:
        alone = STRATEGIES.build(f"{member.replace(';', ',')}{',' if ':' in member else ':'}temperature={temperature}")
        cascade = Cascade(members=member, mode=mode, temperature=temperature)
        assert cascade.needs == alone.needs
        one, other = (traced(strategy, model(), PROMPT, draft=draft_for(alone), new=NEW, eos=None)
                      for strategy in (alone, cascade))
        assert one == other


@pytest.mark.parametrize(("members", "mode"), PAIRS)
@torch.inference_mode()
def test_any_members_write_what_greedy_writes(members: str, mode: str) -> None:
    """And in a batch what each sequence gets alone, above temperature 0 too."""
    texts = [prompt * 2 for prompt in prompts(scaled(2, 3), 97, 4)]
    cold, warm = (Cascade(members=members, mode=mode, temperature=temperature) for temperature in (0.0, 0.8))
    for text in texts:
        for seed in (0, 1):
            assert decode(cold, model(), text, draft=draft_for(cold, seed), new=NEW) == decode(Greedy(), model(), text,
                                                                                               new=NEW)
    jobs = [partial(traced, warm, model(), text, draft=draft_for(warm), new=NEW) for text in texts]
    assert run_batched([model(), model(1)], jobs, 3) == [job() for job in jobs]


def nothing(tree: TokenTree = EMPTY, path: Sequence[int] = ()) -> Step:
    return Step(tree, None, path, 0)  # type: ignore[arg-type]


class Scripted:
    """Drafts the same chain whatever the text is, and remembers what it was shown."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self.seen, self.drafted = tokens, list[Step](), list[tuple[list[int], list[int], int]]()

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        self.seen.append(last)
        return self.extend(sequence, (), limit)

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        self.drafted.append((list(sequence), list(drafted), limit))
        return TokenTree.chain(self.tokens[:limit])


def cascaded(drafters: Sequence[Drafter], mode: str, least: int = 1, rules: Sequence[Accept] = ()) -> Cascaded:
    session: Any = SimpleNamespace(tokens=[], follow=lambda tokens: None)
    rules = rules or [delta] * len(drafters)
    return Cascaded(session, [Member(*each) for each in zip(drafters, rules, strict=True)], mode, least)


def test_the_first_that_has_a_draft_drafts() -> None:
    none, short, long = Scripted([]), Scripted([1, 2]), Scripted([3, 4, 5])
    assert cascaded([none, short, long], "first").draft([9], nothing(), 9).tokens == (1, 2)
    assert cascaded([none, short, long], "first", least=3).draft([9], nothing(), 9).tokens == (3, 4, 5)
    assert cascaded([none, short, long], "first", least=3).draft([9], nothing(), 2).tokens == (1, 2)
    assert cascaded([none, short, long], "first", least=4).draft([9], nothing(), 9) is EMPTY
    assert len(long.drafted) == 2  # it is asked only if the others have too little


def test_members_see_the_verification_of_their_own_drafts_only() -> None:
    one, two = Scripted([1, 2]), Scripted([3, 4, 5])
    both = cascaded([one, two], "best")
    tree = both.draft([9], nothing(), 9)
    assert tree.tokens == (3, 4, 5)
    both.draft([9, 3, 8], nothing(tree, [0]), 9)
    assert (one.seen[-1].tree, len(one.seen[-1].path)) == (EMPTY, 0)
    assert (two.seen[-1].tree, two.seen[-1].path) == (tree, [0])
    assert [(member.accepted, member.tested) for member in both.members] == [(1, 2), (2, 5)]


def test_the_best_has_the_highest_accepted_share_times_length() -> None:
    one, two = Scripted([1, 2]), Scripted([3, 4, 5])
    both, last, chosen = cascaded([one, two], "best"), nothing(), list[int]()
    for _ in range(6):  # all of the first is right and nothing of the second
        tree = both.draft([9], last, 9)
        chosen.append(tree.tokens[0])
        last = nothing(tree, range(len(tree)) if tree.tokens[0] == 1 else ())
    assert chosen == [3, 1, 1, 1, 1, 1]  # 1/2·2 < 1/2·3, then 1/2·2 > 1/5·3
    assert (both.members[0].accepted, both.members[0].tested) == (9, 10)
    assert cascaded([Scripted([1, 2]), Scripted([3, 4])], "best").draft([9], nothing(), 9).tokens == (1, 2)


def test_a_sampled_draft_counts_as_long_as_they_usually_are() -> None:
    member, q = Member(Scripted([]), rejection), torch.ones(5)
    drafts = [TokenTree.chain([1] * length, [q] * length) for length in (4, 2, 3, 9)]
    assert [member.expected(tree) for tree in drafts] == [0.5, 2.0, 1.5, 1.5]
    assert member.expected(TokenTree.chain([1] * 8)) == 4.0


def test_each_extends_the_longest_path_so_far() -> None:
    class Forked(Scripted):
        def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
            super().extend(sequence, drafted, limit)
            return TokenTree((1, 2, 3, 4), (-1, -1, 1, 1))
    first, second, third = Forked([]), Scripted([5, 6]), Scripted([7] * 9)
    both = cascaded([Scripted([]), first, second, third], "extend")
    tree = both.draft([9], nothing(), 6)
    assert tree == TokenTree((1, 2, 3, 4, 5, 6, 7, 7), (-1, -1, 1, 1, 2, 4, 5, 6))
    assert second.drafted == [([9], [2, 3], 4)]
    assert third.drafted == [([9], [2, 3, 5, 6], 2)]
    both.draft([9, 2, 3, 5, 8], nothing(tree, [1, 2, 4]), 6)
    assert [(member.accepted, member.tested) for member in both.members] == [(1, 2), (3, 4), (2, 4), (1, 2)]
    assert first.seen[-1].path == [1, 2]
    both.draft([9, 1, 8], nothing(both.tree, [0]), 6)  # what was below 2 and 3 has not been tested
    assert [(member.accepted, member.tested) for member in both.members] == [(1, 2), (4, 6), (2, 4), (1, 2)]
    assert len(cascaded([Scripted([1, 2]), Scripted([5])], "extend").draft([9], nothing(), 2)) == 2


def test_parts_keep_their_distributions() -> None:
    q, r = torch.ones(5), torch.zeros(5)
    tree = joined(TokenTree((1, 2), (-1, -1), {-1: q}), TokenTree((3, 4, 5), (-1, 0, 0), {-1: r, 0: q}), 1)
    assert (tree.tokens, tree.parents) == ((1, 2, 3, 4, 5), (-1, -1, 1, 2, 2))
    assert {node: id(probs) for node, probs in tree.probs.items()} == {-1: id(q), 1: id(r), 2: id(q)}


class Drawn:
    """Samples a chain from q; it ends after token 2, as policies end drafts by what was drawn."""

    def __init__(self, stream: Stream, length: int) -> None:
        self.stream, self.length = stream, length

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        return self.extend(sequence, (), limit)

    def extend(self, sequence: Sequence[int], drafted_before: Sequence[int], limit: int) -> TokenTree:
        tokens, probs = list[int](), list[torch.Tensor]()
        while len(tokens) < min(self.length, limit) and 2 not in tokens:
            probs.append(vector(drafted((*sequence, *drafted_before, *tokens))))
            tokens.append(self.stream.choose(probs[-1]))
        return TokenTree.chain(tokens, probs)


def written(drafters: Callable[[Stream], list[Any]], mode: str, rules: Sequence[Accept] = (delta, rejection),
            cls: type[Cascaded] = Cascaded, least: int = 2) -> dict[tuple[int, ...], float]:
    """The distribution of four tokens after two steps of a cascade of which the second may depend on the first."""
    def run(stream: Stream) -> tuple[int, ...]:
        both = cascaded(drafters(stream), mode, least, rules)
        both.__class__ = cls
        out, last = (), nothing()
        for limit in (2, 1):
            if len(out) < 3:
                tree = both.draft(out, last, limit)
                rows = read(tree, lambda below, above=out: conditional((*above, *below)))  # type: ignore[misc]
                path, token = both.rule(tree, rows, stream)
                out, last = (*out, *(tree.tokens[node] for node in path), token), nothing(tree, path)
        return complete(out, 3, conditional, stream)
    return dict(law(run))


@pytest.mark.parametrize("mode", ["first", "best", "extend"])
def test_chosen_and_sampled_drafts_together_preserve_the_distribution(mode: str) -> None:
    expected = autoregressive(conditional, 3)
    assert same(written(lambda s: [Scripted([1]), Drawn(s, 2)], mode), expected)
    assert same(written(lambda s: [Drawn(s, 2), Scripted([1, 0])], mode, (rejection, delta)), expected)
    assert same(written(lambda s: [Drawn(s, 1), Scripted([2])], mode, (rejection_without_replacement, delta)), expected)


def test_dropping_short_sampled_drafts_is_caught() -> None:
    """A draft is short if it drew token 2 first, which must not decide whether token 2 is verified."""
    class Careless(Cascaded):
        def _first(self, sequence: Sequence[int], last: Step, limit: int) -> tuple[TokenTree, list[Part]]:
            for number in range(len(self.members)):
                tree = self._draft(number, sequence, last, limit)
                if len(tree) >= min(self.least, limit):
                    return tree, [Part(number, tree)]
            return EMPTY, []
    expected = autoregressive(conditional, 3)
    two = (rejection, delta)
    assert same(written(lambda s: [Drawn(s, 2), Scripted([1, 0])], "first", two), expected)
    assert not same(written(lambda s: [Drawn(s, 2), Scripted([1, 0])], "first", two, Careless), expected)


def test_a_member_learns_when_the_sequence_ends() -> None:
    model().learnt.clear()
    members = "suffix_decoding:warm=true>token_recycling:warm=true"
    runs = [traced(Cascade(members=members), model(), PROMPT, new=NEW) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    assert runs[1][1].forwards < runs[0][1].forwards
    assert Cascade(members=members).stateful
    assert SuffixDecoding(warm=True).spec() in model().learnt
    model().learnt.clear()


def test_a_member_drafts_from_the_sequence_whatever_another_has_drafted_with_the_model() -> None:
    """Two that skip no layer: the longer draft is verified, and all of it is right."""
    perfect = "layer_skip:share=0;theta=0;adapt=false"
    _, work, _ = traced(Cascade(members=f"{perfect};gamma=2>{perfect};gamma=3", mode="best"), model(), PROMPT, new=13,
                        eos=None)
    assert (work.drafted, work.accepted, work.forwards) == (9, 9, 4)


def test_what_cannot_be_combined_is_refused() -> None:
    for members, mode, message in [
            ("beam", "first", "no method that drafts"), ("pearl", "first", "no method that drafts"),
            ("typical_acceptance", "first", "no method that drafts"), ("cascade", "first", "no method that drafts"),
            ("nonsense", "first", "There is no strategy"), ("speculative>staged", "first", "only one member can use"),
            ("eagle2>medusa", "first", "only one member can have"),
            ("speculative:verify=block>prompt_lookup", "extend", "verified by the same rule"),
            ("rsd_s>layer_skip", "extend", "verified by the same rule")]:
        with pytest.raises(UserError, match=message):
            Cascade(members=members, mode=mode)
    with pytest.raises(UserError, match="jacobi cannot draft below the drafts of others"):
        decode(Cascade(members="prompt_lookup>jacobi", mode="extend"), model(), PROMPT)
    assert Cascade(members="prompt_lookup>eagle2").head_kind == Cascade(members="eagle2").head_kind == "eagle"
    assert Cascade(members="prompt_lookup>rest").files().keys() == set()
