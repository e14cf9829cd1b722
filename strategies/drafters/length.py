"""Policies for the length of a draft, by the draft model's confidence, the acceptance so far and the load."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from harness.engine.session import Session
from harness.errors import UserError


class Length(Protocol):
    """Sets the length of each draft; `stop` is called only if `watches`."""

    watches: bool

    def most(self, context: int) -> int:
        """Return the maximum length of the next draft, below a sequence of `context` tokens.

        It must not depend on what is drafted.
        """
        ...

    def stop(self, likeliest: float) -> bool:
        """Decide whether a draft ends after a token whose distribution has the largest probability `likeliest`.

        The token itself is kept, and its id must not matter: either would change the distribution.
        """
        ...

    def observe(self, drafted: int, accepted: int) -> None:
        """Update the policy by the numbers of drafted and accepted tokens of the last draft."""
        ...


class Fixed:
    """Drafts `gamma` tokens always."""

    watches = False

    def __init__(self, gamma: int) -> None:
        self.gamma = gamma

    def most(self, context: int) -> int:
        """Return `gamma`."""
        return self.gamma

    def stop(self, likeliest: float) -> bool:
        """Return False."""
        return False

    def observe(self, drafted: int, accepted: int) -> None:
        """Do nothing."""


class Confidence(Fixed):
    """Stops after a distribution whose largest probability is below `threshold` (the dynamic rule of transformers)."""

    watches = True

    def __init__(self, gamma: int, threshold: float) -> None:
        super().__init__(gamma)
        self.threshold = threshold

    def stop(self, likeliest: float) -> bool:
        """Return whether the largest probability is below the threshold."""
        return likeliest < self.threshold


class Heuristic(Fixed):
    """Drafts two tokens more after a fully accepted draft, else one less, at least one (transformers)."""

    def observe(self, drafted: int, accepted: int) -> None:
        """Set the next length."""
        if drafted:
            self.gamma = self.gamma + 2 if accepted == drafted else max(1, self.gamma - 1)


class Adaptive(Confidence):
    """Adapts the threshold of `Confidence` so that nine drafts in ten are accepted (Self-SD, 2309.08168, §4.3).

    The running acceptance rate starts at that target.
    """

    TARGET, STEP, RATE, INERTIA = 0.9, 0.01, 0.5, 0.9

    def __init__(self, gamma: int, threshold: float) -> None:
        super().__init__(gamma, threshold)
        self.rate = self.TARGET

    def observe(self, drafted: int, accepted: int) -> None:
        """Raise the threshold when too little is accepted; lower it when drafts ended early needlessly."""
        if not drafted:
            return
        self.rate += self.RATE * (accepted / drafted - self.rate)
        target = self.threshold
        if self.rate < self.TARGET:
            target += self.STEP
        elif drafted < self.gamma:
            target -= self.STEP
        self.threshold = self.INERTIA * self.threshold + (1 - self.INERTIA) * target


class Cost(Fixed):
    """Drafts the length with the most tokens per time at the acceptance rate of this sequence so far.

    `cost` is the time of a draft forward over that of a target forward. The rate starts at one half, with the weight
    of two tokens.
    """

    def __init__(self, limit: int, cost: float) -> None:
        self.limit, self.cost = limit, cost
        self.verified, self.accepted = 2, 1
        super().__init__(max(1, best_gamma(0.5, cost, limit)))

    def observe(self, drafted: int, accepted: int) -> None:
        """Count the verified tokens: those accepted, and the one rejected."""
        self.accepted += accepted
        self.verified += accepted + (accepted < drafted)
        self.gamma = max(1, best_gamma(self.accepted / self.verified, self.cost, self.limit))


def best_gamma(alpha: float, cost: float, limit: int, verify: Callable[[int], float] = lambda tokens: 1.0) -> int:
    """Return the draft length 0 … `limit` of the highest gain (Leviathan 2211.17192, theorem 3.8; goodput, 2406.14066).

    Gain is expected tokens over γ·cost + verify(γ + 1), in target forwards of one token; `alpha` is the chance
    that a drafted token is accepted.
    """
    def gain(gamma: int) -> float:
        tokens = gamma + 1 if alpha >= 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)
        return tokens / (gamma * cost + verify(gamma + 1))
    return max(range(limit + 1), key=gain)


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


POLICIES = ("fixed", "confidence", "heuristic", "ema", "cost", "table", "goodput")


def length(policy: str, gamma: int, threshold: float, cost: float, table: Sequence[Entry], load: Load) -> Length:
    """Create the policy that a knob names, one of `POLICIES`."""
    if policy == "table":
        return Table(gamma, table, load.sequences)
    if policy == "goodput":
        return Goodput(gamma, cost, load)
    if policy == "confidence":
        return Confidence(gamma, threshold)
    if policy == "heuristic":
        return Heuristic(gamma)
    if policy == "ema":
        return Adaptive(gamma, threshold)
    return Cost(gamma, cost) if policy == "cost" else Fixed(gamma)
