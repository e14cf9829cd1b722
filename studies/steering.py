"""Steering: how often a code of one kind of text turns answers to other prompts into that kind, and at what cost.

After Tamkin et al. 2023 (arXiv 2310.17230, §4), who activate codes of a topic in models that were trained with codes.
Here codes are k-means clusters of the model's own states, on the dev texts of nano's corpus, and steer `clamp`.
`share` is the share of answers to prompts of other kinds that a naive Bayes classifier of the six kinds calls `kind`;
`nll` is the negative log likelihood per token of all answers under the model without steering.

Four vectors steer: `code` moves states from their code to the code of `kind` (`mode=code`); `kind` adds the difference
of this code and the mean state, `other` that of a code of another kind, and `random` a random one. The added ones are
scaled to the mean norm of the states. All files are kept, to run `clamp` with them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from json import dumps
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

import torch

from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.laboratory.prompts import of_nano
from harness.models.likelihood import score_answers
from harness.models.loading import Model
from harness.nano.corpus import KINDS, problems
from harness.plugins.strategy import Request, Strategy
from harness.plugins.study import Setting, Study, knob
from harness.run.loading import find_device, load_target
from harness.stats.naive_bayes import NaiveBayes
from harness.store.files import replace_file
from strategies.clamp import Clamp
from strategies.greedy import Greedy
from strategies.parts.codes import Codebook, codebook
from strategies.tools.codebook import embedded, states

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ALPHAS = (0.1, 0.25, 0.5, 1.0)
TOGETHER = 32  # answers in a batch
LEARNT = 200   # texts of each kind that the classifier learns from
Prompts = Sequence[list[int]]


@dataclass(frozen=True)
class Steering(Study):
    """A row for each vector, layer and `alpha`, and one without steering."""

    kind: str = knob("story", "kind of text to steer to", choices=KINDS)
    layers: int = knob(3, "layers after which states are changed, evenly spaced", low=1, high=100)
    codes: int = knob(64, "codes of a layer", low=2, high=4096, sweep=(64, 128, 256))
    texts: int = knob(20, "texts of each kind that the codes are fitted to", low=1, high=1000)
    prompts: int = knob(4, "prompts of each other kind", low=1, high=200)
    new: int = knob(40, "tokens of an answer at most", low=1, high=10000)

    paper: ClassVar[str] = "Tamkin et al. 2023, arXiv 2310.17230"

    @torch.inference_mode()
    def table(self, setting: Setting) -> "pd.DataFrame":
        """Fit codes after some layers, steer answers with them, and score the answers."""
        import pandas as pd

        model = load_target(replace(setting.config, device=find_device(setting.config.device)))
        known = NaiveBayes.of([model.tokenizer([one.answers[0] for one in problems(kind, "train", LEARNT)]).input_ids
                          for kind in KINDS], model.vocab)
        prompts = of_nano(model, "test", self.prompts)
        prompts = [prompt for i, prompt in enumerate(prompts) if KINDS[i // self.prompts] != self.kind]
        rows = [("none", 0, 0.0, *self.scored(model, known, Greedy(), prompts))]
        corpus, depth = embedded(self.texts), len(model.engine.parts.layers)
        for layer in sorted({max(1, round(depth * (i + 0.5) / self.layers)) for i in range(self.layers)}):
            setting.say(f"Fitting codes after layer {layer}")
            for (name, method), alpha in product(self.vectors(model, corpus, layer, setting).items(), ALPHAS):
                setting.say(f"Layer {layer}: {name}, alpha {alpha}")
                rows.append((name, layer, alpha, *self.scored(model, known, replace(method, alpha=alpha), prompts)))
        return pd.DataFrame(rows, columns=["vector", "layer", "alpha", "share", "nll"])

    def vectors(self, model: Model, corpus: Mapping[str, Sequence[str]], layer: int, setting: Setting
                ) -> dict[str, Clamp]:
        """Return what steers after a layer, by name; its files are written to the folder of the study."""
        site, seed = f"hidden:{layer}", setting.config.seed
        found = {kind: states(model.engine, model.tokenizer(list(some)).input_ids, site)
                 for kind, some in corpus.items()}
        book, every = codebook(site, found, self.codes, seed), torch.cat(list(found.values()))
        file = replace_file(setting.folder / f"codes-{layer}.json", book.model_dump_json())
        steered = {"code": Clamp(file=str(file), mode="code", code=(best := book.best(self.kind)))}
        random = torch.randn(every.shape[1], generator=torch.Generator().manual_seed(seed))
        codes = torch.tensor(book.codes) - every.mean(0)
        for name, vector in (("kind", codes[best]), ("other", codes[self.other(book)]), ("random", random)):
            scaled = vector / vector.norm() * every.norm(dim=1).mean()
            edits = dumps([{"site": site, "vector": scaled.tolist()}])
            steered[name] = Clamp(file=str(replace_file(setting.folder / f"{name}-{layer}.json", edits)))
        return steered

    def other(self, book: Codebook) -> int:
        """Return the best code of another kind: the one with most states of that kind if several are precise."""
        best = {kind: book.best(kind) for kind in KINDS if kind != self.kind}
        return best[max(best, key=lambda kind: (min(book.precision(kind)[best[kind]], 0.9),
                                                book.counts[kind][best[kind]]))]

    def scored(self, model: Model, known: NaiveBayes, method: Strategy, prompts: Prompts) -> tuple[float, float]:
        """Return the share of answers that are of the kind, and the mean negative log likelihood of their tokens."""
        answers = list(self.answers(model, method, prompts))
        share = fmean(known.kind([token for token in answer if token not in model.eos]) == KINDS.index(self.kind)
                      for answer in answers)
        texts = [(tuple(prompt), tuple(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
        scores = score_answers(model, texts)
        return share, fmean(nats for text in texts for nats in scores[text].surprisal)

    def answers(self, model: Model, method: Strategy, prompts: Prompts) -> Iterator[list[int]]:
        """Yield the answer to each prompt, decoded in batches."""
        for found in run_batched([model.engine], [partial(self.answer, model, method, each) for each in prompts],
                                 TOGETHER):
            if isinstance(found, CacheFull):
                raise found
            yield found

    def answer(self, model: Model, method: Strategy, prompt: list[int]) -> list[int]:
        """Return the answer to one prompt, with its last token EOS if it has one."""
        session, tokens = Session(model.engine), list[int]()
        try:
            for block in method.generate(session, Request(tuple(prompt), self.new, PhiloxStream(0))):
                tokens += block
                if tokens[-1] in model.eos or len(tokens) >= self.new:
                    break
            return tokens
        finally:
            session.close()

    def plot(self, table: "pd.DataFrame", axes: "Axes") -> None:
        """Draw the share of answers against their likelihood, a line for each vector and layer."""
        plain, layers = table[table["vector"] == "none"].iloc[0], sorted(table["layer"].unique())[1:]
        for i, name in enumerate(("code", "kind", "other", "random")):
            for layer, marker in zip(layers, "os^vD*+x" * len(layers), strict=False):
                one = table[(table["vector"] == name) & (table["layer"] == layer)]
                label = {"kind": self.kind}.get(name, name) if layer == layers[0] else None
                axes.plot([plain["nll"], *one["nll"]], [plain["share"], *one["share"]], f"C{i}", marker=marker,
                          markersize=4, linewidth=0.9, label=label)
                axes.annotate(f" {layer}", one[["nll", "share"]].iloc[-1], fontsize=7, va="bottom")
        axes.set(xlabel="negative log likelihood per token", ylabel=f"answers that read like {self.kind}",
                 ylim=(-0.03, 1.03))
        axes.legend(frameon=False, title="vector, and layer at the end")
