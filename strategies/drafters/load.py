"""Policies for the length of a draft by the load: how many sequences are decoded at once, and how long they are."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from harness.engine.session import Session
from harness.errors import UserError
from strategies.drafters.length import Cost, Fixed, best_gamma

TABLE = "1:4;32:3;64:1;128:0"  # the best lengths at an acceptance of 0.6, a cost of 0.05 and a ridge of 153 tokens


class Entry(NamedTuple):
    """A draft length from a batch size and a number of tokens in the sequence on."""

    batch: int
    context: int
    gamma: int


class Table(Fixed):
    """Drafts what the last entry that fits says, at most `gamma`; `sequences` returns the present batch size."""

    def __init__(self, gamma: int, entries: Sequence[Entry], sequences: Callable[[], int]) -> None:
        super().__init__(gamma)
        self.entries, self.sequences = entries, sequences

    def most(self, context: int) -> int:
        """Look the load up."""
        batch = self.sequences()
        return next(min(self.gamma, entry.gamma) for entry in self.entries[::-1]
                    if entry.batch <= batch and entry.context <= context)


def entries(owner: str, text: str) -> list[Entry]:
    """Parse "1:4;32:2;32@2048:3", a draft length from a batch size on, and one from 2048 tokens in a sequence on too.

    Raises `UserError` for any other text, and if no entry is for every load.
    """
    found = [re.fullmatch(r"\s*(\d+)(?:@(\d+))?:(\d+)\s*", part) for part in text.split(";")]
    table = [Entry(*(int(number or 0) for number in match.groups())) for match in found if match]
    if len(table) < len(found) or table[0].batch > 1 or table[0].context:
        raise UserError(f"{owner}: table must list a draft length for a batch size of 1 and any larger ones, such as "
                        f"1:4;32:2;64:0, not '{text}'.")
    return table


class Tetris(Table):
    """Drafts `gamma` tokens; the batch verifies as many as `Table` would, those most likely to be accepted.

    The likelihood of a token is the product of the largest probabilities up to it (TETRIS, 2502.15197, uses those of
    the drafted tokens: they are the same at temperature 0, and above it would change the distribution).
    """

    watches = True

    def __init__(self, gamma: int, entries: Sequence[Entry], load: "Load") -> None:
        super().__init__(gamma, entries, load.sequences)
        self.load = load

    def most(self, context: int) -> int:
        """Return `gamma`, as more is drafted than verified; 0 where the table has no draft."""
        return self.gamma if super().most(context) else 0

    def kept(self, likeliest: Sequence[float], context: int) -> int:
        """Return this sequence's share of the tokens that the batch verifies."""
        drafts, place = self.load.session.gather((list(likeliest), super().most(context)))
        return selected([draft for draft, _ in drafts], sum(length for _, length in drafts))[place]


def selected(drafts: Sequence[Sequence[float]], capacity: int) -> list[int]:
    """Return how many tokens of each draft are among the `capacity` ones of the highest cumulative probability.

    Of equal ones, the shallower count first.
    """
    scores = [(-score, depth, place) for place, draft in enumerate(drafts)
              for depth, score in enumerate(accumulate(draft, mul))]
    counts = Counter(place for _, _, place in sorted(scores)[:capacity])
    return [counts[place] for place in range(len(drafts))]


class Load:
    """The load on the target of a session, and what it does to the time of a forward.

    A forward takes as long as reading the weights and the KV cache, or as its arithmetic if that is more. The latter
    equals reading the weights at `ridge` tokens, by default the device's. Other sequences count as long as this one.
    """

    def __init__(self, session: Session, ridge: float = 0) -> None:
        self.session, self.ridge = session, ridge or session.engine.costs.forward

    @cached_property
    def share(self) -> float:
        """The bytes of the KV cache of one token over those of the weights; the model must have read something."""
        engine = self.session.engine
        weights = sum(int(weight.nbytes) for weight in engine.model.parameters())
        return engine.cache.slot_bytes() / weights

    def sequences(self) -> int:
        """Return the present batch size."""
        return self.session.in_flight

    def verify(self, context: int) -> Callable[[int], float]:
        """Return the time of a forward by its tokens of each sequence, over that of one token each."""
        batch = self.sequences()
        memory = 1 + batch * context * self.share

        def time(tokens: int) -> float:
            return max(memory, batch * tokens / self.ridge)
        return lambda tokens: time(tokens) / time(1)


class Goodput(Cost):
    """Like `Cost`, with the time of a forward by the load (SmartSpec, 2406.14066); under much of it nothing is drafted.

    Poor acceptance alone leaves one token, as without drafts it would never be seen to improve.
    """

    def __init__(self, limit: int, cost: float, load: Load) -> None:
        super().__init__(limit, cost)
        self.load = load

    def most(self, context: int) -> int:
        """Return the length with the most tokens per time under the present load."""
        verify = self.load.verify(context)
        hopeful, found = (best_gamma(alpha, self.cost, self.limit, verify)
                          for alpha in (0.5, self.accepted / self.verified))
        return max(min(1, hopeful), found)
