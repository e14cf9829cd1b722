"""Quest: each query attends to the pages of keys that could matter most to it, whatever strategy decodes.

Tang et al. 2024 (arXiv 2406.10774, §3). Nothing is dropped. Keys lie in pages of `page` slots, of each of which the
lowest and the highest number of every channel are known. Of each channel, a query takes the bound that gives the larger
product; their sum is at least its product with any key of the page. Each query head attends to the pages with the
highest sums, `budget` keys in all and at least three pages. The prompt, and the first `dense` layers, attend to all
keys.

`variant=frontier` is the rule of the Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768): query heads that share
keys choose together, by the sum of their bounds, and the page of the token itself is always among them. In the paper's
rule a token may leave out its own page. With `share`, the budget is that share of the pages of the text so far.

Bounds are computed anew from the keys that a token may attend to, so drafts are verified as if they were decoded one by
one. That reads all keys: it shows what the text becomes, not the time that pages save. Counts are those of a kernel
that keeps the bounds: the keys of the chosen pages and, where there is something to choose, two bounds of every page,
which weigh as much as a key and its value.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.decoding.governed import GovernedCache
from harness.engine.attention_hooks import Attend
from harness.engine.cache_policy import CachePolicy, Compared, LayerAttention
from harness.engine.cached_sequence import CachedSequence
from harness.engine.hooks import View
from harness.plugins.strategy import knob

LEAST = 3  # pages


@dataclass(frozen=True)
class Pages(CachePolicy):
    """Attends to the best `count` pages of `size` slots from layer `dense` on; if `shared`, the same in a group.

    With `share` above 0, a token attends to that share of its pages, rounded up.
    """

    size: int
    count: int
    dense: int
    shared: bool
    share: float = 0.0

    def settle(self, sequence: CachedSequence) -> None:
        """Note that the prompt has been read."""
        sequence.row.state = True

    def attention(self, view: View) -> LayerAttention | None:
        """Attend to pages after the prompt."""
        if not any(row.state for row in view.rows):
            return None
        prompt = torch.tensor([row.state is None for row in view.rows], device=view.slots.device)[:, None, None]

        def attend(layer: int, own: Attend, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor,
                   *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            if layer >= self.dense and (self.share or mask.shape[-1] > self.size * self.count):
                chosen = [self._chosen(query[:, :, i], key, mask[:, 0, i] == 0) for i in range(query.shape[2])]
                kwargs["compared"] = Compared(self._bounds(mask).masked_fill(prompt[:, 0], 0), key.shape[1])
                mask = torch.where(torch.stack(chosen, 2) | prompt, mask, torch.finfo(mask.dtype).min)
            return own(module, query, key, value, mask, *args, **kwargs)

        return attend

    def _bounds(self, mask: Tensor) -> Tensor:
        """Return the bounds (B, Q) that a query is compared with: two of each page, if there are pages to leave out."""
        pages = (mask[:, 0] == 0).sum(-1).add(self.size - 1).div(self.size, rounding_mode="floor")
        return 2 * pages * (pages > self._budget(pages))

    def _budget(self, pages: Tensor) -> Tensor:
        """Return how many of so many pages a token attends to at most."""
        return (self.share * pages).ceil() if self.share else torch.full_like(pages, self.count)

    def _chosen(self, query: Tensor, key: Tensor, seen: Tensor) -> Tensor:
        """Return which slots (B, H, S) are in the pages of a query (B, H, D), given those (B, S) that it may see."""
        count = -(-key.shape[2] // self.size)
        page = (seen.cumsum(-1) - 1) // self.size  # counted in seen slots: the other branches of a tree take no place
        grouped = query.view(len(query), key.shape[1], -1, query.shape[-1])
        scores = upper(grouped, *bounds(key, page.masked_fill(~seen, count), count))
        if self.shared:
            scores = scores.sum(2, keepdim=True).expand_as(scores)
            newest = torch.arange(count, device=page.device) == page[:, -1:]
            scores = scores.masked_fill(newest[:, None, None], torch.inf)
        best = scores.sort(dim=-1, descending=True, stable=True).indices
        pages = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, self._kept(page, best)).flatten(1, 2)
        return pages.gather(-1, page.clamp_min(0)[:, None].expand(-1, pages.shape[1], -1))

    def _kept(self, page: Tensor, best: Tensor) -> Tensor:
        """Return which places of the order of pages `best` (B, G, R, P) are within the budget."""
        place = torch.arange(best.shape[-1], device=best.device)
        return (place < self._budget(page[:, -1:] + 1))[:, None, None].expand_as(best)


def bounds(key: Tensor, page: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest number of each channel, (B, G, P, D), in `count` pages of keys (B, G, S, D).

    `page` (B, S) is the page of each slot, or `count`. Of a page without keys, the lowest is above the highest.
    """
    index, size = page[:, None, :, None].expand_as(key), (*key.shape[:2], count + 1, key.shape[3])
    low = key.new_full(size, torch.inf).scatter_reduce(2, index, key, "amin")
    high = key.new_full(size, -torch.inf).scatter_reduce(2, index, key, "amax")
    return low[:, :, :count], high[:, :, :count]


def upper(query: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return bounds (B, G, R, P) of the products of queries (B, G, R, D) with the keys of pages; −∞ of empty pages."""
    empty = (low > high).any(-1)[:, :, None]
    low, high = (each.nan_to_num(0.0, 0.0, 0.0) for each in (low, high))
    return (query.clamp_max(0) @ low.mT + query.clamp_min(0) @ high.mT).masked_fill(empty, -torch.inf)


@dataclass(frozen=True)
class Quest(GovernedCache):
    """Identities: if `budget` is at least the length of the text, `dense` the number of layers, or `share` 1, the other
    strategy.
    """

    budget: int = knob(256, "keys that a query attends to", low=1, high=1000000, sweep=(64, 128, 256, 1024))
    page: int = knob(16, "keys of a page", low=1, high=1024, sweep=(4, 8, 16, 32))
    dense: int = knob(2, "first layers that attend to all keys", low=0, high=1000, sweep=(0, 2))
    share: float = knob(0.0, "the budget as a share of the pages; 0 for `budget`", low=0, high=1,
                        sweep=(0.1, 0.25, 0.5))
    variant: str = knob("paper", "pages of each query head, or of query heads that share keys and with the own page",
                        choices=("paper", "frontier"), sweep=("paper", "frontier"))

    paper: ClassVar[str] = "Tang et al. 2024, arXiv 2406.10774"

    def policy(self) -> CachePolicy:
        """Attend to pages."""
        return Pages(self.page, max(LEAST, self.budget // self.page), self.dense, self.variant == "frontier",
                     self.share)
