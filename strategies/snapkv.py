"""SnapKV: after the prompt, keep the keys to which its last tokens attend, whatever strategy decodes.

Li et al. 2024 (arXiv 2404.14469, §4). What an answer attends to can be told from what the end of the prompt attends to.
Of each layer, every KV head sums up the attention weights of the last `win` tokens of the prompt, smooths them over
`kernel` neighbours, so that passages are kept rather than single tokens, and keeps the keys with the highest sums: with
the window itself, `cap` keys. All later keys are kept. Keys keep the positions that they were written with. A prompt of
fewer than `cap` tokens keeps all keys. With `share`, `cap` is that share of the prompt. The question must be at the end
of the prompt.

PyramidKV (Cai et al. 2024, arXiv 2406.02069, `shape=pyramid`) gives lower layers more keys and higher ones fewer, with
a mean of `cap` but for rounding. Layers of the KV cache are equally long here, so what a layer has less than the
largest is masked, not saved. The authors keep keys for every query head, which takes as many copies of a key as query
heads share it; here the heads of a group choose together, by their sum.

Drafts do not change the text, as nothing is dropped after the prompt; a search sees what is left of the prompt too.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad

from harness.decoding.governed import GovernedCache
from harness.engine.attention_hooks import Attend
from harness.engine.cache_policy import CachePolicy, LayerAttention
from harness.engine.cached_sequence import CachedSequence
from harness.engine.heed import highest, weights
from harness.engine.hooks import View
from harness.errors import UserError
from harness.plugins.strategy import knob


class Snap(NamedTuple):
    """The queries of the prompt's last tokens until it is read; then the first slots of each layer that are unused."""

    queries: Tensor | None
    unused: tuple[int, ...] = ()


@dataclass(frozen=True)
class Observed(CachePolicy):
    """Keeps of a prompt its last keys, the window, and those that the window attends to; of each layer its number."""

    win: int
    cap: int
    kernel: int
    pool: str
    beta: int  # 1: the same number in all layers
    share: float = 0.0

    heeds: ClassVar[bool] = True

    def learn(self, sequence: CachedSequence) -> None:
        """Keep the queries of the window."""
        state, new = sequence.row.state, sequence.queries
        if state is None or state.queries is not None:
            sequence.row.state = Snap(torch.cat([state.queries, new] if state else [new])[-self.win:])
            sequence.settled = sequence.cached

    def settle(self, sequence: CachedSequence) -> None:
        """Drop keys once, after the prompt."""
        queries, prompt = sequence.row.state.queries, sequence.start
        if queries is None:
            return
        sequence.row.state = Snap(None)
        cap = max(self.win + 1, round(self.share * prompt)) if self.share else self.cap
        if prompt < cap or self.share == 1:
            return
        counts = capacities(cap, self.win, self.beta, prompt, queries.shape[1])
        sequence.row.state, kept = Snap(None, tuple(max(counts) - count for count in counts)), list[Tensor]()
        for count, given in zip(counts, weights(sequence, queries), strict=True):
            scores = smoothed(given[..., :prompt - self.win].sum((1, 2)), self.kernel, self.pool)
            slots = highest(pad(scores, (0, self.win)), count - self.win, self.win)
            kept.append(pad(slots, (max(counts) - count, 0)))
        sequence.select(torch.stack(kept))

    def attention(self, view: View) -> LayerAttention | None:
        """Mask the slots that a layer does not use."""
        unused = [row.state.unused if row.state else () for row in view.rows]
        if not any(map(any, unused)):
            return None
        size = max(map(len, unused))
        count = torch.tensor([each or (0,) * size for each in unused], device=view.slots.device)  # (B, layers)

        def attend(layer: int, own: Attend, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor,
                   *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            hidden = torch.arange(mask.shape[-1], device=mask.device) < count[:, layer, None]
            mask = mask.masked_fill(hidden[:, None, None], torch.finfo(mask.dtype).min)
            return own(module, query, key, value, mask, *args, **kwargs)

        return attend


def smoothed(scores: Tensor, kernel: int, pool: str) -> Tensor:
    """Return the mean or maximum of each score (G, S) and its neighbours; beyond the ends, scores are zero."""
    return (max_pool1d if pool == "max" else avg_pool1d)(scores, kernel, stride=1, padding=kernel // 2)


def capacities(cap: int, win: int, beta: int, prompt: int, layers: int) -> list[int]:
    """Return how many keys each layer keeps, the window among them: from many to few on a line, or the same."""
    least = (cap - win) // beta
    most = 2 * (cap - win) - least
    if most >= prompt - win:
        most = prompt - win
        least = 2 * (cap - win) - most
    step = (most - least) // max(1, layers - 1)
    return [most - layer * step + win for layer in range(layers)]


@dataclass(frozen=True)
class SnapKV(GovernedCache):
    """Identity: if `cap` is more than the prompt, the other strategy; `beta=1` is `shape=flat`."""

    win: int = knob(64, "last tokens of the prompt whose attention decides", low=1, high=1000000, sweep=(8, 16, 32, 64))
    cap: int = knob(320, "keys of the prompt that are kept", low=2, high=1000000, sweep=(64, 128, 256, 1024))
    share: float = knob(0.0, "`cap` as a share of the prompt, at least win + 1; 0 for `cap`", low=0, high=1,
                        sweep=(0.1, 0.25, 0.5))
    kernel: int = knob(5, "neighbours over which attention is smoothed, an odd number", low=1, high=1001,
                       sweep=(1, 5, 7, 21))
    pool: str = knob("avg", "smooth by the mean or the maximum", choices=("avg", "max"))
    shape: str = knob("flat", "the same number of keys in all layers, or more in lower ones",
                      choices=("flat", "pyramid"), sweep=("flat", "pyramid"))
    beta: int = knob(20, "how steep the pyramid is: the top layer keeps 1/beta of cap − win, with the window", low=1,
                     high=1000)

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2404.14469"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cap <= self.win and not self.share:
            raise UserError(f"snapkv: cap must be more than win, but {self.cap} is not more than {self.win}.")
        if self.kernel % 2 == 0:
            raise UserError(f"snapkv: kernel must be odd, but it is {self.kernel}.")

    def policy(self) -> CachePolicy:
        """Keep what the end of the prompt attends to."""
        return Observed(self.win, self.cap, self.kernel, self.pool, self.beta if self.shape == "pyramid" else 1,
                        self.share)
