"""Rules of diffusion language models: how many of the open places of a window are closed in one step.

Chances fall and entropies (in nats) rise: the best place is first. At least one place is always closed.
"""

from collections.abc import Sequence
from itertools import accumulate

from harness.engine.random_stream import Stream


def split(count: int, steps: int) -> list[int]:
    """Return how many of `count` places each step closes: equally many, earlier steps one more (LLaDA, 2502.09992)."""
    return [count // steps + (step < count % steps) for step in range(steps)]


def threshold(chances: Sequence[float], least: float) -> int:
    """Close all places whose chance is at least `least` (Fast-dLLM, arXiv 2505.22618, §3.3)."""
    return max(1, sum(chance >= least for chance in chances))


def factor(chances: Sequence[float], most: float, official: bool = False) -> int:
    """Close the most places n with (n + 1)(1 − c_n) < `most` (Fast-dLLM, arXiv 2505.22618, §3.3, theorem 1).

    The `official` code closes the last place too if it is the only one that fails.
    """
    kept = [(n + 1) * (1 - chance) < most for n, chance in enumerate(chances, 1)]
    count = kept.index(False) if False in kept else len(kept)
    return len(kept) if official and count == len(kept) - 1 else max(1, count)


def frechet(chances: Sequence[float], margin: float) -> int:
    """Close the most places n with Σ c_i − (n − 1) − (1 − c_n) > `margin` (arXiv 2606.02955).

    The sum without its last term is Fréchet's lower bound of the chance that all n are right.
    """
    bounds = [total - (n - 1) - (1 - chance) for n, (total, chance) in enumerate(
        zip(accumulate(chances), chances, strict=True), 1)]
    return max([1, *(n for n, bound in enumerate(bounds, 1) if bound > margin)])


def entropy_bound(entropies: Sequence[float], most: float) -> int:
    """Close the most places whose entropies, less the last one's, add up to `most` (EB-Sampler, arXiv 2505.24857)."""
    sums = zip(accumulate(entropies), entropies, strict=True)
    return max([1, *(n for n, (total, entropy) in enumerate(sums, 1) if total - entropy <= most)])


def unmasked(count: int, step: int, steps: int, eps: float, stream: Stream) -> int:
    """Draw how many of `count` places a step of the original diffusion process closes (Dream, arXiv 2508.15487).

    Each is closed with probability 1 − s/t, where the times t and s before and after the step go from 1 to `eps` in
    equal steps; the last step closes all.
    """
    if step >= steps - 1:
        return count
    t, s = (1 - number * (1 - eps) / steps for number in (step, step + 1))
    draws: list[float] = stream.uniform(count).tolist()
    return max(1, sum(draw < 1 - s / t for draw in draws))


def agreeing(best: Sequence[int], final: Sequence[int]) -> list[int]:
    """Return the places whose likeliest token is that of the final answer, which only an oracle knows (EGP).

    If there is none, it is the first place.
    """
    return [place for place, (token, right) in enumerate(zip(best, final, strict=True)) if token == right] or [0]


def joint(tokens: Sequence[int], best: Sequence[int], chances: Sequence[float], is_open: Sequence[bool], least: float,
          edit: float) -> list[int]:
    """Return the places that get their likeliest token: open ones above `least`, and closed ones that are edited.

    If no open one is above it, the best of them. A closed one is edited if its token is another and the chance of the
    new one is above `edit` (JointThreshold of LLaDA 2.1).
    """
    places = [place for place, here in enumerate(is_open) if here]
    closed = [place for place in places if chances[place] > least]
    if places and not closed:
        closed = [max(places, key=lambda place: chances[place])]
    edited = [place for place, here in enumerate(is_open)
              if not here and best[place] != tokens[place] and chances[place] > edit]
    return sorted(closed + edited)
