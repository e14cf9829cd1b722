"""The chance that a text that begins so will not be degenerate: what a conditional beam search asks of a prefix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from harness.decoding.search import Hypothesis
from harness.errors import UserError
from harness.scoring.variety import rep_n

SHIPPED = Path(__file__).parent.parent / "data"


@dataclass(frozen=True)
class Attribute:
    """A text that is not degenerate: not empty, and of its `size`-grams at most the share `most` said before."""

    size: int = 4
    most: float = 0.2

    def holds(self, tokens: Sequence[int], repeats: int | None = None) -> bool:
        """Whether a text (token ids without EOS) has it; `repeats` n-grams of it were said before."""
        grams = len(tokens) - self.size + 1
        if grams < 1:
            return len(tokens) > 0
        share = rep_n([tokens], self.size) if repeats is None else repeats / grams
        return share is not None and share <= self.most


class Judge(Protocol):
    """Says how likely a hypothesis is to become a text that has the attribute; `reads` when it needs hidden states."""

    @property
    def reads(self) -> bool:
        """Whether `log_p` looks at `hidden`."""
        ...

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """Log P(attribute | prefix) of each, at most 0; `hidden` (n, D) after each where the judge reads them."""
        ...

    def final(self, text: Hypothesis, length: int) -> float:
        """The same of a finished text, of whose tokens the first `length` count."""
        ...


class Certain:
    """Every text has it."""

    reads = False

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """Zeros."""
        return [0.0] * len(hypotheses)

    def final(self, text: Hypothesis, length: int) -> float:
        """Zero."""
        return 0.0


@dataclass(frozen=True)
class Rule:
    """A prefix that has the attribute keeps it for sure, one that has not gets it with the chance `doubt`."""

    attribute: Attribute
    doubt: float
    reads: bool = False

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """0 or log `doubt`; the state of a hypothesis is its number of repeats."""
        return [0.0 if self.attribute.holds(h.tokens, h.state) else math.log(self.doubt) for h in hypotheses]

    def final(self, text: Hypothesis, length: int) -> float:
        """0 or −∞: of a finished text it is known."""
        return 0.0 if self.attribute.holds(text.tokens[:length], text.state) else -math.inf


@dataclass(frozen=True)
class Trained:
    """A logistic regression on the model's hidden state after the prefix."""

    attribute: Attribute
    weight: Tensor
    bias: float
    reads: bool = True

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """Log of the sigmoid; raises `UserError` when it was trained on another model's states."""
        if hidden.shape[1] != len(self.weight):
            raise UserError(f"conditional_beam: the classifier reads {len(self.weight)} numbers and the model's hidden "
                            f"state has {hidden.shape[1]}: train one with python -m strategies.tools.conditional_train")
        logits = hidden.double() @ self.weight.to(hidden.device) + self.bias
        found: list[float] = torch.nn.functional.logsigmoid(logits).tolist()
        return found

    def final(self, text: Hypothesis, length: int) -> float:
        """As the rule has it: of a finished text it is known."""
        return Rule(self.attribute, 1.0).final(text, length)

    def save(self, path: Path) -> None:
        """Write it to an .npz."""
        np.savez_compressed(path, weight=self.weight.numpy().astype(np.float32), bias=self.bias,
                            size=self.attribute.size, most=self.attribute.most)

    @classmethod
    def load(cls, name: str) -> "Trained":
        """A file that `save` wrote, or `nano`; raises `UserError` when there is none or it holds something else."""
        path = SHIPPED / "conditional_nano.npz" if name == "nano" else Path(name)
        try:
            with np.load(path) as held:
                attribute = Attribute(int(held["size"]), float(held["most"]))
                return cls(attribute, torch.from_numpy(held["weight"]).double(), float(held["bias"]))
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"conditional_beam: no classifier in '{name}': give none, rule, nano or a file that "
                            "python -m strategies.tools.conditional_train wrote.") from error
