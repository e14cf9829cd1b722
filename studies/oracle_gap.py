"""Oracle gap: how far rules that leave out MLPs are from the best choice for each token, and from a random one.

After Duo-LLM, Alizadeh et al. 2024 (arXiv 2410.10846), who train models with a small and a big MLP in each layer; here
an MLP runs or not, and nothing is trained. Each token is computed with every set of so many MLPs, that of the first
layer among them, behind the keys of the whole model. The loss is that of the token that follows in the text:

- `oracle`: the best set for each token, which knows the token that follows. A bound, not a decoder.
- `best`: of `draws` sets drawn for a whole text, the one with the lowest loss. `random`: the mean over all sets.
- `lowest`: the MLPs of the first layers, as if those above were left early.
- `ffn_skip`: what the strategy of this name chooses, which may run more: the mean number is under `runs`.

`gap` is 0 for the oracle and 1 for a random set, given where `ffn_skip` runs no more. With more than `sets` sets of a
size, so many are drawn, and the oracle is the best of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb, nan
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness import nano
from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest
from harness.engine.hooks import ForwardHook, Skip
from harness.engine.session import Session
from harness.engine.tree import additive
from harness.errors import UserError
from harness.laboratory import prompts
from harness.models.loading import Model
from harness.nano.corpus import KINDS
from harness.nano.documents import documents
from harness.plugins.study import Setting, Study, knob
from harness.report.plot_parts import log_scale
from harness.run.loading import find_device, load_target
from strategies.ffn_skip import SkipAlike

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LONGEST = 256  # tokens of a text


class Texts:
    """Computes the last `count` tokens of texts again and again, each behind the whole model's keys of those before."""

    def __init__(self, engine: Engine, texts: Sequence[Sequence[int]], count: int) -> None:
        self.engine, self.sessions = engine, [Session(engine) for _ in texts]
        self.requests, self.wanted = list[ForwardRequest](), list[Tensor]()
        for text, session in zip(texts, self.sessions, strict=True):
            known, first = len(text) - 1, len(text) - 1 - count
            session.follow(text[:-1])
            session.read()
            before = torch.arange(known) < torch.arange(first, known)[:, None]
            mask = additive(torch.cat([before, torch.eye(count, dtype=torch.bool)], 1), engine.dtype, engine.device)
            self.requests.append(ForwardRequest(session.row, known, text[first:known], range(first, known), mask, count,
                                                draft=True))
            self.wanted.append(torch.tensor(text[first + 1:], device=engine.device))

    @torch.inference_mode()
    def losses(self, hook: ForwardHook) -> tuple[Tensor, float]:
        """Return the loss of each token in nats (texts, count) under a hook, and the mean number of MLPs left out."""
        rows = self.engine.run([request._replace(hook=hook) for request in self.requests])
        spared = [float(each.double().mean()) for row in rows if (each := row.recorded("spared:mlp")) is not None]
        return torch.stack([cross_entropy(row.logits, wanted, reduction="none")
                            for row, wanted in zip(rows, self.wanted, strict=True)]).cpu(), sum(spared) / len(rows)


def sets_of(layers: int, budget: int, most: int, rng: Random) -> list[frozenset[int]]:
    """Return the MLPs left out by every set of `budget` MLPs with the first, or by `most` of these sets."""
    out = layers - budget
    if comb(layers - 1, out) <= most:
        return [frozenset(one) for one in combinations(range(1, layers), out)]
    return [frozenset(range(budget, layers)),
            *(frozenset(rng.sample(range(1, layers), out)) for _ in range(most - 1))]


@dataclass(frozen=True)
class OracleGap(Study):
    """A row for each number of MLPs."""

    tokens: int = knob(32, "last tokens of each text that are scored", low=1, high=LONGEST - 1)
    texts: int = knob(1, "texts of each kind, or of each task", low=1, high=1000)
    draws: int = knob(100, "sets drawn for a text", low=1, high=100000)
    sets: int = knob(256, "sets of a size at most", low=2, high=100000)
    threshold: float = knob(0.98, "of ffn_skip", low=-1, high=2, sweep=(0.95, 0.98, 0.99))

    paper: ClassVar[str] = "Alizadeh et al. 2024, arXiv 2410.10846"
    heeds: ClassVar[frozenset[str]] = frozenset({"tasks", "limit"})

    def table(self, setting: Setting) -> "pd.DataFrame":
        """Measure the model on the ends of texts."""
        model = load_target(replace(setting.config, device=find_device(setting.config.device)))
        return self.measured(model.engine, self.chosen(model, setting), setting)

    def chosen(self, model: Model, setting: Setting) -> list[list[int]]:
        """Return the prompts of the tasks, for nano held-out documents; raises `UserError` if there are none."""
        config, count = setting.config, setting.config.limit or self.texts
        if config.tasks:
            found = prompts.of_tasks(model, replace(config, limit=count))
        elif model.name in nano.NAMES:
            counts = dict.fromkeys(KINDS, count)
            found = [list(one.ids) for one in documents("dev", counts, config.seed, model.tokenizer)]
        else:
            raise UserError(f"Which texts should '{model.name}' read? Give a task with -t.")
        room = min(LONGEST, model.engine.max_len)
        if not (texts := [cut for text in found if len(cut := text[:room]) > self.tokens + 1]):
            raise UserError(f"No text has more than {self.tokens + 1} tokens: score fewer with oracle_gap:tokens=N.")
        return texts

    def measured(self, engine: Engine, texts: Sequence[Sequence[int]], setting: Setting) -> "pd.DataFrame":
        """Return the table for these texts."""
        import pandas as pd

        layers, rng, rows = len(engine.parts.layers), Random(setting.config.seed), list[dict[str, float]]()
        ends = Texts(engine, texts, self.tokens)
        for budget in range(1, layers + 1):
            setting.say(f"{budget} of {layers} MLPs")
            sets = sets_of(layers, budget, self.sets, rng)
            every = torch.stack([ends.losses(Skip(mlp=one))[0] for one in sets])  # (sets, texts, tokens)
            means = every.mean(-1)
            drawn = torch.tensor([[rng.randrange(len(sets)) for _ in range(self.draws)] for _ in texts])
            best = fmean(float(means[own, text].amin()) for text, own in enumerate(drawn))
            rule, spared = ends.losses(SkipAlike(self.threshold, (layers - budget) / layers, 1 / layers))
            oracle, mean = float(every.amin(0).mean()), float(every.mean())
            chosen, runs, lowest = float(rule.mean()), layers - spared, sets.index(frozenset(range(budget, layers)))
            gap = (chosen - oracle) / (mean - oracle) if mean > oracle and runs < budget + 0.05 else nan
            rows.append({"MLPs": budget, "oracle": oracle, "best": best, "random": mean,
                         "lowest": float(means[lowest].mean()), "ffn_skip": chosen, "runs": runs, "gap": gap})
        for session in ends.sessions:
            session.close()
        return pd.DataFrame(rows)

    def plot(self, table: "pd.DataFrame", axes: "Axes") -> None:
        """Draw the loss by the MLPs that a token runs."""
        for name, label in (("random", "random set"), ("lowest", "lowest layers"),
                            ("best", f"best of {self.draws} for a text"), ("oracle", "best for each token")):
            axes.plot(table["MLPs"], table[name], marker="o", markersize=3, label=label)
        axes.plot(table["runs"], table["ffn_skip"], "x", color="black", label="ffn_skip")
        axes.axhline(table["random"].iloc[-1], color="grey", linewidth=0.8, linestyle=":", label="all MLPs")
        log_scale(axes, "y")
        axes.set(xlabel="MLPs that a token runs", ylabel="loss of a token (nats)")
        axes.legend(frameon=False)
