"""Similarities of all pairs of texts: candidates in the rows, references in the columns.

All are computed from shared n-grams, counted once a text. chrF and BLEU are those of sacrebleu at its defaults.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ORDERS, BETA = 6, 2       # of chrF: longest n-gram, and weight of recall against precision
WORDS = 4                 # of BLEU: longest n-gram


def exact(texts: Sequence[str]) -> Tensor:
    """Compute (H, H) float64: 1 for equal texts, else 0."""
    return torch.tensor([[float(text == other) for other in texts] for text in texts], dtype=torch.float64)


def f1(texts: Sequence[str]) -> Tensor:
    """Compute (H, H) float64: harmonic mean of precision and recall of words with multiplicity; 1 without words."""
    common, count = shared([Counter(text.split()) for text in texts])
    both = count[:, None] + count
    return torch.where(both > 0, 2 * common / both, 1.0)


def chrf(texts: Sequence[str]) -> Tensor:
    """Compute (H, H) float64, 0 to 100: F of mean precision and recall of character n-grams of both texts."""
    squeezed = ["".join(text.split()) for text in texts]
    precision = recall = orders = torch.zeros(len(texts), len(texts), dtype=torch.float64)
    for size in range(1, ORDERS + 1):
        common, count = shared([_grams(text, size) for text in squeezed])
        both = (count[:, None] > 0) & (count > 0)
        precision = precision + torch.where(both, common / count[:, None], 0)
        recall = recall + torch.where(both, common / count, 0)
        orders = orders + both
    weight = BETA ** 2
    mean = (weight * precision + recall) * orders
    return torch.where(mean > 0, 100 * (1 + weight) * precision * recall / mean, 0)


def bleu(texts: Sequence[str]) -> Tensor:
    """Compute (H, H) float64, 0 to 100: smoothed sentence BLEU, with n-grams up to the candidate's length.

    Words are those of sacrebleu's tokenizer 13a.
    """
    from sacrebleu.metrics.bleu import BLEU

    cut = BLEU(effective_order=True).tokenizer
    words = [cut(text.rstrip()).split() for text in texts]
    counts = [shared([_grams(text, size) for text in words]) for size in range(1, WORDS + 1)]
    common, total = torch.stack([a for a, _ in counts], -1).int().tolist(), torch.stack([b for _, b in counts], -1)
    lengths = [len(text) for text in words]
    return torch.tensor([[BLEU.compute_bleu(row, own, length, other, "exp", effective_order=True).score
                          for row, other in zip(rows, lengths, strict=True)]
                         for rows, own, length in zip(common, total.int().tolist(), lengths, strict=True)],
                        dtype=torch.float64)


def shared(bags: Sequence[Counter[Any]]) -> tuple[Tensor, Tensor]:
    """Count (H, H) float64 the common items of every two bags, and (H,) the items of each."""
    count = torch.tensor([bag.total() for bag in bags], dtype=torch.float64)
    spread = Counter(item for bag in bags for item in bag)
    row = {item: i for i, item in enumerate(item for item, bags_with in spread.items() if bags_with > 1)}
    table = np.zeros((len(row), len(bags)), dtype=np.int32)
    bag_rows = [np.array([row[item] for item in bag if item in row], dtype=np.intp) for bag in bags]
    for i, bag in enumerate(bags):
        table[bag_rows[i], i] = [times for item, times in bag.items() if item in row]
    sums = np.stack([np.minimum(table[rows], table[rows, i][:, None]).sum(0) for i, rows in enumerate(bag_rows)])
    common = torch.from_numpy(sums).double()
    return common.diagonal_scatter(count), count


def _grams(text: Sequence[str], size: int) -> Counter[Sequence[str]]:
    """Count the n-grams of `size` items of a text or of a list of words."""
    items = text if isinstance(text, str) else tuple(text)
    return Counter(items[i:i + size] for i in range(len(items) - size + 1))


UTILITIES: dict[str, Callable[[Sequence[str]], Tensor]] = {"chrf": chrf, "bleu": bleu, "f1": f1, "exact": exact}
