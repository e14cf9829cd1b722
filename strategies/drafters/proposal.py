"""Bayesian optimisation over sets: propose the next one to try, given the scores of those tried."""

import numpy as np
from numpy.typing import NDArray

from harness.engine.random_stream import Stream

Sets = NDArray[np.float64]  # (N, D): 1 where one of D members is in the set
BOLD = 2.5    # standard deviations on top of the mean
NOISE = 0.01  # variance of a score relative to that of all scores


def prepare() -> None:
    """Import what `best` needs, so that the slow import is not counted as part of the first sequence."""
    import sklearn.gaussian_process  # noqa: F401


def drawn(count: int, members: int, size: int, stream: Stream) -> Sets:
    """Sample (count, members) sets of `size` members each, uniformly."""
    order = stream.uniform(count * members).reshape(count, members).argsort(1)[:, :size].numpy()
    sets = np.zeros((count, members))
    np.put_along_axis(sets, order, 1.0, axis=1)
    return sets


def best(candidates: Sets, tried: Sets, scores: NDArray[np.float64]) -> int:
    """Return the row of `candidates` with the highest upper confidence bound under a Gaussian process.

    `tried` are sets of one size, and `scores` (N,) their scores. The kernel is a Matérn of 5/2, whose length scale is
    the expected distance between two such sets, so that only the scores themselves are fitted.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    share = float(tried[0].mean())
    distance = np.sqrt(2 * tried.shape[1] * share * (1 - share))
    process = GaussianProcessRegressor(Matern(distance, nu=2.5), alpha=NOISE, optimizer=None, normalize_y=True)
    mean, deviation = process.fit(tried, scores).predict(candidates, return_std=True)
    return int(np.argmax(mean + BOLD * deviation))
