"""How many tokens to draft: policies that watch what the draft model is sure of and what was accepted so far."""

from collections.abc import Callable
from typing import Protocol


class Length(Protocol):
    """`gamma` is the most tokens of the next draft; `watches` whether `stop` wants to be asked."""

    gamma: int
    watches: bool

    def stop(self, likeliest: float) -> bool:
        """Whether to draft no more after a token from a row whose largest probability is `likeliest`.

        The token itself stays, and what was drawn must not be looked at: both would change the distribution.
        """
        ...

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn how the last draft fared."""
        ...


class Fixed:
    """Always `gamma` tokens."""

    watches = False

    def __init__(self, gamma: int) -> None:
        self.gamma = gamma

    def stop(self, likeliest: float) -> bool:
        """Never."""
        return False

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn nothing."""


class Confidence(Fixed):
    """Stops after a row whose largest probability is below `threshold` (the dynamic rule of transformers)."""

    watches = True

    def __init__(self, gamma: int, threshold: float) -> None:
        super().__init__(gamma)
        self.threshold = threshold

    def stop(self, likeliest: float) -> bool:
        """Below the threshold."""
        return likeliest < self.threshold


class Heuristic(Fixed):
    """Two tokens more after a draft accepted whole, one less after any other, at least one (transformers)."""

    def observe(self, drafted: int, accepted: int) -> None:
        """Set the next length."""
        if drafted:
            self.gamma = self.gamma + 2 if accepted == drafted else max(1, self.gamma - 1)


class Adaptive(Confidence):
    """A confidence whose threshold moves so that nine drafts in ten are accepted (Self-SD, 2309.08168, §4.3).

    The running rate of acceptance starts at that aim.
    """

    AIM, STEP, RATE, INERTIA = 0.9, 0.01, 0.5, 0.9

    def __init__(self, gamma: int, threshold: float) -> None:
        super().__init__(gamma, threshold)
        self.rate = self.AIM

    def observe(self, drafted: int, accepted: int) -> None:
        """Raise the threshold when too little is accepted; lower it when drafts ended early for no reason."""
        if not drafted:
            return
        self.rate += self.RATE * (accepted / drafted - self.rate)
        wanted = self.threshold
        if self.rate < self.AIM:
            wanted += self.STEP
        elif drafted < self.gamma:
            wanted -= self.STEP
        self.threshold = self.INERTIA * self.threshold + (1 - self.INERTIA) * wanted


class Cost(Fixed):
    """The length with the most tokens for the time, given how often a token of this text was accepted so far.

    `cost` is the time of a draft forward over that of a target forward. The rate starts at one half, with the weight
    of two tokens.
    """

    def __init__(self, most: int, cost: float) -> None:
        self.most, self.cost = most, cost
        self.tried, self.taken = 2, 1
        super().__init__(max(1, best_gamma(0.5, cost, most)))

    def observe(self, drafted: int, accepted: int) -> None:
        """Count the tokens that were tested: those accepted, and the one rejected."""
        self.taken += accepted
        self.tried += accepted + (accepted < drafted)
        self.gamma = max(1, best_gamma(self.taken / self.tried, self.cost, self.most))


def best_gamma(alpha: float, cost: float, most: int, verify: Callable[[int], float] = lambda tokens: 1.0) -> int:
    """The draft length 0 … `most` of the highest gain (Leviathan 2211.17192, theorem 3.8; goodput, 2406.14066).

    Gain is expected tokens for γ·cost + verify(γ + 1), times in target forwards of one token; `alpha` is the chance
    that a drafted token is accepted.
    """
    def gain(gamma: int) -> float:
        tokens = gamma + 1 if alpha >= 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)
        return tokens / (gamma * cost + verify(gamma + 1))
    return max(range(most + 1), key=gain)


POLICIES = ("fixed", "confidence", "heuristic", "ema", "cost")


def length(policy: str, gamma: int, threshold: float, cost: float) -> Length:
    """The policy of a knob's value, one of `POLICIES`, at its start."""
    if policy == "confidence":
        return Confidence(gamma, threshold)
    if policy == "heuristic":
        return Heuristic(gamma)
    if policy == "ema":
        return Adaptive(gamma, threshold)
    return Cost(gamma, cost) if policy == "cost" else Fixed(gamma)
