"""Gradient steps on the weights of one sequence, by the rules of dynamic evaluation (Krause et al. 2017)."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from harness.engine.engine import Engine
from harness.engine.gradients import OwnWeights, gradient, weights_of
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.data import read_text

PARTS = ("all", "last", "norms")
EPSILON = 2e-5
Weights = Mapping[str, Tensor]
_known: WeakKeyDictionary[Engine, dict[tuple[object, ...], Weights]] = WeakKeyDictionary()


class Rule:
    """W + `decay`·Δ·(W0 − W) − `rate`·g/(MS + `epsilon`), `scale` being MS and Δ being MS over its mean.

    Without `scale` MS and Δ are 1, and ε is 0: plain gradient descent.
    """

    def __init__(self, rate: float, decay: float, scale: Weights | None = None, epsilon: float = EPSILON) -> None:
        self.rate, self.decay, self.scale, self.epsilon = rate, decay, scale, epsilon
        if scale is not None:
            total = torch.stack([each.double().sum() for each in scale.values()]).sum()
            self.mean = (total / sum(each.numel() for each in scale.values())).float()

    def step(self, name: str, weight: Tensor, first: Tensor, gradient: Tensor) -> Tensor:
        """Return the weight `name` after a step; `first` is the model's own."""
        if self.scale is None:
            return weight + self.decay * (first - weight) - self.rate * gradient
        scale = self.scale[name]
        back = (self.decay * scale / self.mean).clamp(max=1) * (first - weight)
        return weight + back - self.rate * gradient / (scale + self.epsilon)


class Learner:
    """The weights of one sequence, at first those of the model; `hook` runs forwards with them."""

    def __init__(self, session: Session, parts: str, context: int, rule: Rule) -> None:
        self.session, self.context, self.rule = session, context, rule
        self.first = weights_of(session.engine, adapted(session.engine, parts))
        self.hook = OwnWeights(self.first)

    def learn(self, tokens: Sequence[int], first: int, size: int) -> Iterator[Tensor]:
        """Yield −log p (N,) of each segment of `size` tokens from index `first` ≥ 1 on, then make a step on it."""
        for start in range(first, len(tokens), size):
            begin, end = max(0, start - self.context), min(start + size, len(tokens))
            found = gradient(self.session.engine, self.hook.weights, tokens[begin:end], start - begin)
            self.session.work.forwards += 1
            self.session.work.positions += end - begin
            yield found.losses
            with torch.inference_mode(False), torch.no_grad():
                self.hook = OwnWeights({name: self.rule.step(name, weight, self.first[name], found.by_name[name])
                                        for name, weight in self.hook.weights.items()})


def adapted(engine: Engine, parts: str) -> list[nn.Module] | None:
    """Return the modules whose weights are adapted; None for the whole model."""
    if parts == "last":
        return [layer.whole for layer in engine.parts.layers[-2:]]
    return [module for module in engine.model.modules() if "norm" in type(module).__name__.lower()] \
        if parts == "norms" else None


def root_mean_squares(engine: Engine, parts: str, size: int, context: int, file: str,
                      encode: Callable[[str], list[int]]) -> Weights:
    """Return the root of the mean squared gradient of each weight over the segments of a file of texts, one a line.

    Computed once for each model and not counted as work of a sequence. Raises `UserError` without a text of two tokens.
    """
    key = parts, size, context, file
    if key not in _known.setdefault(engine, {}):
        sums, count = defaultdict[str, Tensor](lambda: torch.zeros((), device=engine.device)), 0
        weights = weights_of(engine, adapted(engine, parts))
        for line in read_text(file).splitlines():
            tokens = encode(line)[:engine.max_len] if line.strip() else []
            for start in range(1, len(tokens), size):
                begin = max(0, start - context)
                found = gradient(engine, weights, tokens[begin:start + size], start - begin).by_name
                count += 1
                for name, each in found.items():
                    sums[name] = sums[name] + each.float().square()
        if not count:
            raise UserError(f"dynamic_evaluation: {file} has no text of two tokens to learn the scale of gradients "
                            "from.")
        _known[engine][key] = {name: (total / count).sqrt() for name, total in sums.items()}
    return _known[engine][key]
