"""Policies for the length of a draft, by the confidence of the draft model and the acceptance so far."""

from collections.abc import Callable, Sequence
from typing import Protocol


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

    def kept(self, likeliest: Sequence[float], context: int) -> int:
        """Return how many tokens of a draft are verified, given the largest probability of each one's distribution.

        The tokens' ids must not matter here either. Called only if the policy `watches`.
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

    def kept(self, likeliest: Sequence[float], context: int) -> int:
        """Return the number of all tokens."""
        return len(likeliest)

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
