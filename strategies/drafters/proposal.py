"""Which of many sets to try next, after the scores of those tried: Bayesian optimisation."""

import numpy as np
from numpy.typing import NDArray

from harness.engine.random_stream import Stream

Sets = NDArray[np.float64]  # (N, D): 1 where one of D members is in the set
BOLD = 2.5    # standard deviations on top of the mean
NOISE = 0.01  # variance of a score beside that of all scores


def prepare() -> None:
    """Import what `best` needs, which takes long, so that it is not counted as part of the first text that asks."""
    import sklearn.gaussian_process  # noqa: F401


def drawn(count: int, members: int, size: int, stream: Stream) -> Sets:
    """(count, members) sets of `size` members each, every one as likely as any other."""
    order = stream.uniform(count * members).reshape(count, members).argsort(1)[:, :size].numpy()
    sets = np.zeros((count, members))
    np.put_along_axis(sets, order, 1.0, axis=1)
    return sets


def best(candidates: Sets, tried: Sets, scores: NDArray[np.float64]) -> int:
    """The row of `candidates` with the highest upper confidence bound under a Gaussian process.

    `tried` are sets of one size, and `scores` (N,) what they were worth. The kernel is a Matérn of 5/2, whose length is
    the usual distance between two such sets, so that nothing must be fitted but the scores themselves.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    share = float(tried[0].mean())
    usual = np.sqrt(2 * tried.shape[1] * share * (1 - share))
    process = GaussianProcessRegressor(Matern(usual, nu=2.5), alpha=NOISE, optimizer=None, normalize_y=True)
    mean, deviation = process.fit(tried, scores).predict(candidates, return_std=True)
    return int(np.argmax(mean + BOLD * deviation))
