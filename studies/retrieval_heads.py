"""Retrieval heads: which attention heads copy from the prompt, and what masking them does to the needle test.

Wu et al. 2024 (arXiv 2404.15574). Heads are scored as `python -m strategies.tools.retrieval_heads` scores
them: the mean, over the prompts whose needle is found, of the share of the needle's tokens that a head attends to most
as the model writes them. `active` is the share of these prompts in which a head scores at all. Then the first 1, 2, 3,
5 and 8 heads are masked, and for comparison as many heads drawn from those below the first third of the ranking, in
`draws` draws. `found` is the share of needles of which more than half of the words are in the first line of the answer.

As in the authors' code, a masked head attends to all tokens equally (`mask=uniform`), and the prompt but for its last
token is read with all heads (`since=answer`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch

from harness.engine.attention_hooks import Head, MaskedHeads
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.study import Setting, Study, knob
from harness.run.loading import find_device, load_target
from strategies.tools.retrieval_heads import (
    MAX_NEW,
    Hidden,
    found_scores,
    haystacks_of,
    needle_of,
    retrieved,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COUNTS = (1, 2, 3, 5, 8)
TOGETHER = 32  # prompts decoded in a batch


@dataclass(frozen=True)
class RetrievalHeads(Study):
    """A row for each of the first heads of the ranking: what is found without it and all before it."""

    longest: int = knob(192, "tokens of the longest text", low=64, high=1 << 20, sweep=(192, 320))
    lengths: int = knob(3, "lengths of texts, evenly spaced from 64 tokens", low=1, high=100)
    depths: int = knob(3, "places of the needle, evenly spaced", low=1, high=100)
    needles: int = knob(2, "sentences to find", low=1, high=100)
    draws: int = knob(10, "draws of other heads for each number of them", low=1, high=1000)
    mask: str = knob("uniform", "a masked head has uniform attention, or no output", choices=("uniform", "zero"))
    since: str = knob("answer", "what is read without the heads: the answer, or all", choices=("answer", "prompt"))

    paper: ClassVar[str] = "Wu et al. 2024, arXiv 2404.15574"
    heeds: ClassVar[frozenset[str]] = frozenset({"limit"})

    @torch.inference_mode()
    def table(self, setting: Setting) -> "pd.DataFrame":
        """Rank the heads, then mask the first ones and as many of the others."""
        import pandas as pd

        model = load_target(replace(setting.config, device=find_device(setting.config.device)))
        if self.longest + 3 * MAX_NEW > model.engine.max_len:
            raise UserError(f"retrieval_heads: longest must be at most {model.engine.max_len - 3 * MAX_NEW} for "
                            f"{model.name}, not {self.longest}.")
        prompts = haystacks_of(model, self.longest, self.lengths, self.depths, self.needles)[:setting.config.limit]
        setting.say(f"Scoring heads in {len(prompts)} prompts")
        scores = found_scores(model, prompts)
        means = {head: fmean(each[head] for each in scores) for head in scores[0]}
        ranked = sorted(means, key=lambda head: (-means[head], head))
        rows: list[tuple[object, ...]] = [(0, "", None, None, self.found(model, prompts, ()), None, None, None)]
        for rank, head in enumerate(ranked[:max(COUNTS)], 1):
            masked: list[float | None] = [None] * 4
            if rank in COUNTS and rank <= len(ranked) - len(ranked) // 3:
                setting.say(f"Masking {rank} heads")
                drawn = [self.found(model, prompts, heads) for heads in others(ranked, rank, self.draws,
                                                                              setting.config.seed)]
                masked = [self.found(model, prompts, ranked[:rank]), fmean(drawn), min(drawn), max(drawn)]
            active = fmean(each[head] > 0 for each in scores)
            rows.append((rank, f"{head[0]}-{head[1]}", means[head], active, *masked))
        return pd.DataFrame(rows, columns=["masked", "head", "score", "active", "found", "others", "lowest", "highest"])

    def found(self, model: Model, prompts: Sequence[Hidden], heads: Iterable[Head]) -> float:
        """Return the share of needles that the model finds without `heads`."""
        hook = MaskedHeads(frozenset(heads), cast(Literal["uniform", "zero"], self.mask))
        jobs = [partial(self.answer, model, prompt, hook) for prompt in prompts]
        answers = run_batched([model.engine], jobs, TOGETHER)
        if full := next((one for one in answers if isinstance(one, CacheFull)), None):
            raise full
        return fmean(retrieved(str(answer), needle_of(model, prompt))
                     for answer, prompt in zip(answers, prompts, strict=True))

    def answer(self, model: Model, prompt: Hidden, hook: MaskedHeads) -> str:
        """Return the first line that the model writes, at most `MAX_NEW` tokens."""
        session, sequence, start = Session(model.engine), list(prompt.tokens), len(prompt.tokens)
        session.shares_prefixes = False
        try:
            if self.since == "answer":
                session.follow(sequence[:-1])
                session.read()
            while len(sequence) < start + MAX_NEW:
                session.follow(sequence)
                sequence.append(session.read(EMPTY, hook if hook.heads else None).best[0])
                line, end, _ = str(model.tokenizer.decode(sequence[start:])).partition("\n")
                if end or sequence[-1] in model.eos:
                    break
            return line
        finally:
            session.close()

    def plot(self, table: "pd.DataFrame", axes: "Axes") -> None:
        """Draw what is found by the number of masked heads, of the first ones and of others."""
        known = table.dropna(subset="found")
        masked = known.dropna(subset="others")
        first = axes.plot(known["masked"], known["found"], marker="o", label="retrieval heads")[0]
        axes.errorbar(masked["masked"], masked["others"], yerr=[masked["others"] - masked["lowest"],
                                                                masked["highest"] - masked["others"]],
                      marker="s", capsize=3, label="other heads: mean, lowest and highest draw")
        axes.axhline(known["found"].iloc[0], color=first.get_color(), linewidth=0.8, linestyle=":")
        axes.set(xlabel="masked heads", ylabel="needles found", ylim=(-0.03, 1.03))
        axes.legend(frameon=False)


def others(ranked: Sequence[Head], count: int, draws: int, seed: int) -> list[list[Head]]:
    """Draw `count` heads from those below the first third of the ranking, `draws` times."""
    generator, pool = torch.Generator().manual_seed(seed), ranked[len(ranked) // 3:]
    return [[pool[i] for i in torch.randperm(len(pool), generator=generator)[:count].tolist()] for _ in range(draws)]
