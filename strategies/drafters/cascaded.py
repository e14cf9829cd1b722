"""Several drafters for one sequence: the first that has a draft, the one expected to do best, or one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from harness.decoding.accept import Accept, delta
from harness.decoding.loop import Drafter, Ending, Predicting, Step
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import EMPTY, ROOT, TokenTree, depths
from strategies.drafters.trie import joined, levels


@runtime_checkable
class Extending(Protocol):
    """A drafter that can also draft below tokens that nothing has verified."""

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Return a tree of at most `limit` levels below `sequence` and the tokens `drafted` below it."""
        ...


@dataclass
class Member:
    """A drafter and the rule for what it drafts; `accepted` of `tested` drafted levels were right.

    The share starts at one half, with the weight of two levels. `usual` is the mean number of levels of its `drafts`.
    """

    drafter: Drafter
    rule: Accept
    accepted: int = 1
    tested: int = 2
    usual: float = 1.0
    drafts: int = 0

    def expected(self, tree: TokenTree) -> float:
        """Return the number of tokens expected to be accepted of a draft, which then counts as one of its drafts.

        What was sampled counts as long as this drafter's drafts usually are: whether a sampled token is verified must
        not depend on the token, and the length of a draft may.
        """
        length = self.usual if tree.probs else levels(tree)
        self.drafts += 1
        self.usual += (levels(tree) - self.usual) / self.drafts
        return self.accepted / self.tested * length


class Part(NamedTuple):
    """What one member drafted: its nodes are those from `first` on in the whole tree, below its node `root`."""

    member: int
    tree: TokenTree
    root: int = ROOT
    first: int = 0


class Cascaded:
    """Drafts with `members`, by the modes of `strategies.cascade`; `rule` accepts the last draft.

    A member sees the verification of its own drafts only, so that it judges itself by nothing else. One that drafts
    from the target's predictions sees all of them, as they are right whoever drafted.
    """

    def __init__(self, session: Session, members: Sequence[Member], mode: str, least: int) -> None:
        self.session, self.members, self.mode, self.least = session, members, mode, least
        self.likeliest = max(_likeliest(member.drafter) for member in members)
        self.tree, self.parts = EMPTY, list[Part]()

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels below `sequence`."""
        self._count(last)
        modes = {"first": self._first, "best": self._best, "extend": self._extended}
        self.tree, self.parts = modes[self.mode](sequence, last, limit)
        return self.tree

    def rule(self, tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
        """Accept by the rule of the member that drafted, of several by that of those that sample."""
        rules = [self.members[part.member].rule for part in self.parts]
        return next((rule for rule in rules if rule is not delta), delta)(tree, logits, stream)

    def end(self) -> None:
        """End the sequence for all members."""
        for member in self.members:
            if isinstance(member.drafter, Ending):
                member.drafter.end()

    def _first(self, sequence: Sequence[int], last: Step, limit: int) -> tuple[TokenTree, list[Part]]:
        for number in range(len(self.members)):
            tree = self._draft(number, sequence, last, limit)
            if len(tree) and (tree.probs or levels(tree) >= min(self.least, limit)):  # as in `Member.expected`
                return tree, [Part(number, tree)]
        return EMPTY, []

    def _best(self, sequence: Sequence[int], last: Step, limit: int) -> tuple[TokenTree, list[Part]]:
        trees = [self._draft(number, sequence, last, limit) for number in range(len(self.members))]
        scores = [member.expected(tree) if len(tree) else 0.0 for member, tree in zip(self.members, trees, strict=True)]
        best = scores.index(max(scores))
        return trees[best], [Part(best, trees[best])]

    def _extended(self, sequence: Sequence[int], last: Step, limit: int) -> tuple[TokenTree, list[Part]]:
        whole, parts = EMPTY, list[Part]()
        for number, member in enumerate(self.members):
            if not len(whole):
                tree, root = self._draft(number, sequence, last, limit), ROOT
            elif isinstance(member.drafter, Extending) and type(whole) is TokenTree:
                deep = depths(whole.parents)
                root = deep.index(max(deep))
                drafted = [whole.tokens[node] for node in whole.path(root)]
                tree = member.drafter.extend(sequence, drafted, limit - deep[root]) if deep[root] < limit else EMPTY
            else:
                break
            if len(tree):
                parts.append(Part(number, tree, root, len(whole)))
                plain = TokenTree(tree.tokens, tree.parents) if member.rule is delta and tree.probs else tree
                whole = joined(whole, plain, root) if len(whole) else plain
        return whole, parts

    def _draft(self, number: int, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Return the draft of a member, which starts from the sequence, whatever another has drafted with the model."""
        self.session.follow(list(self.session.tokens))
        return self.members[number].drafter.draft(sequence, self._seen(number, last), limit)

    def _seen(self, number: int, last: Step) -> Step:
        if _likeliest(self.members[number].drafter):
            return last
        own = next((part for part in self._tested(last) if part.member == number), Part(number, EMPTY))
        return last if own.tree is last.tree else Step(own.tree, last.reading, _accepted(own, last), last.token)

    def _tested(self, last: Step) -> list[Part]:
        """The parts of the last draft that verification reached."""
        return [part for part in self.parts if last.tree is self.tree and part.root in (ROOT, *last.path)]

    def _count(self, last: Step) -> None:
        for part in self._tested(last):
            self.members[part.member].tested += levels(part.tree)
            self.members[part.member].accepted += len(_accepted(part, last))


def _accepted(part: Part, last: Step) -> list[int]:
    """The accepted nodes of a part, by its own numbers."""
    return [node - part.first for node in last.path if part.first <= node < part.first + len(part.tree)]


def _likeliest(drafter: Drafter) -> int:
    return drafter.likeliest if isinstance(drafter, Predicting) else 0
