"""Classifiers for conditional beam search: the probability that a prefix does not become a degenerate sequence."""

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
    """The attribute of not being degenerate: not empty, and at most the share `most` of its `size`-grams repeated."""

    size: int = 4
    most: float = 0.2

    def holds(self, tokens: Sequence[int], repeats: int | None = None) -> bool:
        """Return whether token ids (without EOS) have the attribute; `repeats` is their number of repeats, if known."""
        grams = len(tokens) - self.size + 1
        if grams < 1:
            return len(tokens) > 0
        share = rep_n([tokens], self.size) if repeats is None else repeats / grams
        return share is not None and share <= self.most


class Judge(Protocol):
    """Estimates the probability that a hypothesis gets the attribute; `reads` is whether it needs hidden states."""

    @property
    def reads(self) -> bool:
        """Return whether `log_p` uses `hidden`."""
        ...

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """Return log P(attribute | prefix) of each, at most 0; `hidden` (n, D) are their states if `reads`."""
        ...

    def final(self, text: Hypothesis, length: int) -> float:
        """Return log P of a finished hypothesis, of which the first `length` tokens count."""
        ...


class Certain:
    """A judge for which every hypothesis has the attribute."""

    reads = False

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """Return zeros."""
        return [0.0] * len(hypotheses)

    def final(self, text: Hypothesis, length: int) -> float:
        """Return zero."""
        return 0.0


@dataclass(frozen=True)
class Rule:
    """A judge with P = 1 for a prefix with the attribute and P = `doubt` for one without."""

    attribute: Attribute
    doubt: float
    reads: bool = False

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """Return 0 or log `doubt`; the state of a hypothesis is its number of repeats."""
        return [0.0 if self.attribute.holds(h.tokens, h.state) else math.log(self.doubt) for h in hypotheses]

    def final(self, text: Hypothesis, length: int) -> float:
        """Return 0 or −∞, since the attribute of a finished hypothesis is known."""
        return 0.0 if self.attribute.holds(text.tokens[:length], text.state) else -math.inf


@dataclass(frozen=True)
class Trained:
    """A logistic regression on the model's hidden state after the prefix."""

    attribute: Attribute
    weight: Tensor
    bias: float
    reads: bool = True

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        """Return the log of the sigmoid; raises `UserError` when it was trained on another model's states."""
        if hidden.shape[1] != len(self.weight):
            raise UserError(f"conditional_beam: the classifier needs hidden states of size {len(self.weight)}, not "
                            f"{hidden.shape[1]}: train one with python -m strategies.tools.conditional_train")
        logits = hidden.double() @ self.weight.to(hidden.device) + self.bias
        log_p: list[float] = torch.nn.functional.logsigmoid(logits).tolist()
        return log_p

    def final(self, text: Hypothesis, length: int) -> float:
        """Return 0 or −∞ as in `Rule`."""
        return Rule(self.attribute, 1.0).final(text, length)

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez_compressed(path, weight=self.weight.numpy().astype(np.float32), bias=self.bias,
                            size=self.attribute.size, most=self.attribute.most)

    @classmethod
    def load(cls, name: str) -> "Trained":
        """Load a file that `save` wrote, or `nano`; raises `UserError` for a missing or any other file."""
        path = SHIPPED / "conditional_nano.npz" if name == "nano" else Path(name)
        try:
            with np.load(path) as file:
                attribute = Attribute(int(file["size"]), float(file["most"]))
                return cls(attribute, torch.from_numpy(file["weight"]).double(), float(file["bias"]))
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"conditional_beam: '{name}' is not a classifier: give none, rule, nano or a file that "
                            "python -m strategies.tools.conditional_train wrote.") from error
