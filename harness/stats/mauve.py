"""MAUVE: the similarity of two sets of texts, from a model's hidden states.

Pillutla et al. 2021, arXiv 2102.01454. Both sets become histograms over common clusters of features; the score is the
area under their divergence curve, 1 if they are indistinguishable. Implemented from the paper, because the reference
library is under the GPL and needs a second k-means.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]
SCALE = 5.0  # the paper's c
WEIGHTS = np.linspace(1e-6, 1 - 1e-6, 25)
KEPT_VARIANCE = 0.9
SEEDS = (25, 26, 27, 28, 29)  # of k-means, on which the score depends; 25 is the reference library's
ENOUGH = 1000  # with fewer texts per set the score is biased and noisy


def mauve(references: Numbers, answers: Numbers, seed: int = SEEDS[0]) -> float:
    """Return the score of two sets of features, (N, D) and (M, D): 0 (nothing in common) to 1.

    Raises ValueError if a set is empty.
    """
    return area(*histograms(references, answers, seed))


def histograms(references: Numbers, answers: Numbers, seed: int) -> tuple[Numbers, Numbers]:
    """Return the histograms of both sets over K common clusters; K is a tenth of the smaller set, at least 2.

    Features are normalised and reduced to 90 % of their variance (PCA); k-means has 5 random starts of at most 500
    iterations.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    both = normalize(np.vstack([answers, references]).astype(np.float64))
    if np.ptp(both, axis=0).max() > 0:
        both = PCA(KEPT_VARIANCE, svd_solver="full").fit_transform(both)
    clusters = max(2, round(min(len(references), len(answers)) / 10))
    different = len(np.unique(both.round(9), axis=0))  # no more clusters than distinct points
    k_means = KMeans(min(clusters, different), init="random", n_init=5, max_iter=500, random_state=seed)
    labels = k_means.fit_predict(both)
    p, q = (np.bincount(part, minlength=clusters) / len(part)
            for part in (labels[len(answers):], labels[:len(answers)]))
    return p, q


def area(p: Numbers, q: Numbers, scale: float = SCALE) -> float:
    """Return the score of two histograms: the area under the divergence curve, averaged over both axes.

    The curve decreases, so of two points with the same x the higher one comes first. Otherwise equal histograms can
    score 0.75 instead of 1.
    """
    mixed = [weight * p + (1 - weight) * q for weight in WEIGHTS]
    x = np.array([1.0, *(np.exp(-scale * _divergence(q, r)) for r in mixed), 0.0])
    y = np.array([0.0, *(np.exp(-scale * _divergence(p, r)) for r in mixed), 1.0])
    return (_under(x, y) + _under(y, x)) / 2


def _under(x: Numbers, y: Numbers) -> float:
    order = np.lexsort((-y, x))
    return float(np.trapezoid(y[order], x[order]))


def _divergence(p: Numbers, r: Numbers) -> float:
    """Return KL(p ‖ r) in nats, at least 0; r must be positive wherever p is."""
    positive = p > 0
    return max(0.0, float(np.sum(p[positive] * np.log(p[positive] / r[positive]))))
