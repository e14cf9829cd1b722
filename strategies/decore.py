"""DeCoRe: contrast the model with itself without the attention heads that retrieve from the prompt.

Gema et al. 2024 (arXiv 2410.18860). The score is (1 + a)·log p − a·log q, q being the model without its first `heads`
retrieval heads. `weight` defines a: entropy of p in nats, constant `alpha`, or gain, by how much the entropy of q
is above that of p; a is at most `cap` (the authors set none, so a uniform p gives a = ln V). `mask` "uniform"
(the authors' code) gives a masked head uniform attention, "zero" removes it. As in their code, q prefills all but the
last token of the prompt with all heads unless `mask_prefill`.

`scores` is a JSON file of retrieval scores, as `python -m strategies.tools.retrieval_heads` makes it for any model and
as the authors of Retrieval Head (2404.15574) publish them: "layer-head" to a number, or to a list, which is averaged.
`scores` "nano" are those shipped for nano. Heads that never retrieve are not masked.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path
from typing import ClassVar, Literal, cast

from torch import Tensor

from harness.decoding.contrast import Contrast, Scored, Scorer, away
from harness.engine.attention_hooks import Head, MaskedHeads, head_counts
from harness.engine.hooks import ModelParts
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Request, knob

NANO = Path(__file__).parent / "data" / "nano_heads.json"
WEIGHTS = ("entropy", "constant", "gain")


@dataclass(frozen=True)
class Decore(Contrast):
    """`heads=0` is `greedy`, and so are `weight=constant,alpha=0` and `cap=0`."""

    heads: int = knob(50, "retrieval heads to mask; 0 is greedy", low=0, high=100000,
                      sweep=(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100))
    weight: str = knob("entropy", "rule for the weight of the masked model", choices=WEIGHTS, sweep=WEIGHTS)
    alpha: float = knob(0.5, "the weight if it is constant", low=0, high=10, sweep=(0.0, 0.5, 1.0))
    cap: float = knob(100.0, "the highest weight; 0 is greedy", low=0, high=100, sweep=(0.5, 1.0, 2.0, 100.0))
    relative: bool = knob(False, "entropy as a share of ln V", sweep=(False, True))
    mask: str = knob("uniform", "a masked head has uniform attention, or no output", choices=("uniform", "zero"),
                     sweep=("uniform", "zero"))
    mask_prefill: bool = knob(False, "also mask the heads during prefill", sweep=(False, True))
    scores: str = knob("nano", "JSON file of retrieval scores, or nano for those of that model", file=True)

    paper: ClassVar[str] = "Gema et al. 2024, arXiv 2410.18860"

    def __post_init__(self) -> None:
        """Refuse a file that holds no scores."""
        super().__post_init__()
        ranked(self.file)

    @property
    def file(self) -> Path:
        """Return the path of the scores."""
        return NANO if self.scores == "nano" else Path(self.scores)

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of one sequence, which a second session passes through the masked model."""
        hook = MaskedHeads(frozenset(self.chosen(session.engine.parts)), cast(Literal["uniform", "zero"], self.mask))
        masked: Session | None = None

        def scored(sequence: Sequence[int]) -> Scored:
            nonlocal masked
            session.follow(sequence)
            plain = session.read().logits[0]
            if not hook.heads:
                return Scored(plain, plain)
            if masked is None:
                masked = session.new_sequence() if self.mask_prefill else session.fork()
                masked.shares_prefixes = not self.mask_prefill
                masked.follow([] if self.mask_prefill else request.prompt[:-1])
            masked.follow(sequence)
            return Scored(self.contrasted(plain, masked.read(EMPTY, hook).logits[0]), plain)
        return scored

    def contrasted(self, plain: Tensor, masked: Tensor) -> Tensor:
        """Compute (V,) scores from the logits with and without the heads."""
        p, q = plain.log_softmax(-1), masked.log_softmax(-1)
        weight = self.alpha
        if self.weight != "constant":
            weight = entropy(p) if self.weight == "entropy" else entropy(q) - entropy(p)
            weight /= log(len(p)) if self.relative else 1
        weight = min(weight, self.cap)
        return away(p, q, weight, 1 + weight)

    def chosen(self, parts: ModelParts) -> list[Head]:
        """Return the heads to mask; raises `Unsupported` when the scores are those of another model."""
        if not self.heads:
            return []
        scores, (layers, heads) = ranked(self.file), head_counts(parts)
        if any(layer >= layers or head >= heads for layer, head in scores) or len(scores) != layers * heads:
            raise Unsupported("needs the retrieval heads of this model: write them with python -m strategies.tools."
                              "retrieval_heads and give the file as scores")
        return [head for head, score in scores.items() if score > 0][:self.heads]


@cache
def ranked(path: Path) -> dict[Head, float]:
    """Load scores of (layer, head), highest first, ties by layer and head; raises `UserError` if there are none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        entries = read.get("scores", read).items()
        scores = {cast(Head, tuple(map(int, name.split("-")))): _mean(score) for name, score in entries}
        good = bool(scores) and all(len(head) == 2 for head in scores)
    except (OSError, ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise UserError(f"decore: {path} is not a JSON file of retrieval scores; python -m "
                        "strategies.tools.retrieval_heads writes one.")
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def entropy(log_p: Tensor) -> float:
    """Compute the entropy in nats of the distribution with log-probabilities `log_p` (V,)."""
    return float(-(log_p.exp() * log_p).nan_to_num(0.0).sum())


def _mean(score: object) -> float:
    numbers = score if isinstance(score, list) else [score]
    return sum(map(float, numbers)) / max(1, len(numbers))
