"""DeepConf: vote weighted by confidence, and stop a text as soon as the model becomes unsure while it writes it.

Fu et al., Deep Think with Confidence, 2025 (arXiv 2508.15260, §3; code facebookresearch/deepconf). The confidence of a
token is the mean of −log p over the `top` likeliest tokens, high where the model is sure; that of a group is its mean
over `window` successive tokens, that of a text its lowest group. The first `warmup` texts are written to their end, and
the confidence that the top `keep` % of them have at least is the threshold. Each of the other texts, `n` in total,
ends as soon as a group is below it. The finished texts at or above the threshold vote, each with the weight of its
confidence; of those with the elected answer, the most confident is returned.

The saving is in the numbers of forward passes and positions, against `warmup` = `n`. Unlike the code, which compares
rounded log p before the threshold with log p after temperature behind it, both are the model's own logits. The paper
also stops when the texts agree; its code does not, and neither does this. Its window of 2,048 tokens is for long chains
of thought; here it is 16. Repeated text is confident too. The texts of a search come from one search and are not
stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from torch import Tensor

from harness.decoding.confidence import CONFIDENCES, least, surprise
from harness.decoding.samples import ManySamples, afresh, drawn, each, in_copies, prefill, voted, whole
from harness.decoding.search import Search
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob

ROUNDED = 1 - 1e-4  # a text is often the same as the one that sets the threshold, and differs by rounding


class Text(NamedTuple):
    """A text as token ids, and its confidence, None if it was stopped."""

    tokens: list[int]
    confidence: float | None


class Watch:
    """The confidence of every token of a text while it is written, from the logits that its strategy reads.

    A token whose logits are not read is not counted.
    """

    def __init__(self, prompt: Sequence[int], top: int, window: int, low: float) -> None:
        self.prompt, self.top, self.window, self.low, self.stopped = prompt, top, window, low, False
        self.rows, self.values = dict[tuple[int, ...], Tensor](), list[float]()

    def warp(self, logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Record each row (N, V), and change nothing."""
        rows = surprise(logits, self.top).unbind()
        self.rows |= {tuple(sequences[i]): row for i, row in enumerate(rows)}
        return logits

    def unsure(self, tokens: Sequence[int]) -> bool:
        """Return whether the last token of a text completes a group below the threshold."""
        before = (*self.prompt, *tokens[:-1])
        if (row := self.rows.get(before)) is not None:
            self.values.append(float(row))
        self.rows = {sequence: row for sequence, row in self.rows.items() if len(sequence) > len(before)}
        group = self.values[-self.window:]
        self.stopped = len(group) == self.window and sum(group) / self.window < self.low
        return self.stopped


@dataclass(frozen=True)
class Deepconf(ManySamples):
    """Identities: `n=1` is the other strategy; `warmup` of at least `n` stops nothing and is
    `weighted_vote:confidence=lowest,vote=linear`; with `keep=100,vote=equal` too it is `self_consistency`.
    """

    n: int = knob(256, "sequences begun", low=1, high=1024, sweep=(32, 64, 128, 256))
    warmup: int = knob(16, "sequences written to their end, which set the threshold", low=1, high=1024,
                       sweep=(4, 8, 16))
    keep: float = knob(90.0, "percentage of those that the threshold admits", low=0, high=100, sweep=(10.0, 50.0, 90.0))
    vote: str = knob("linear", "weight of a text: its confidence, or equal", choices=("linear", "equal"),
                     sweep=("linear", "equal"))
    top: int = knob(20, "likeliest tokens that the confidence of a token averages", low=1, high=1000)
    window: int = knob(16, "tokens in a group", low=1, high=1_000_000, sweep=(8, 16, 32, 2048))

    default_over: ClassVar[str] = "top_p:p=0.95,temperature=0.6"
    paper: ClassVar[str] = "Fu et al. 2025, arXiv 2508.15260"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the chosen text whole."""
        if self.n == 1:
            yield drawn(session, request, self.over, 1)[0]
            return
        texts, low = self.texts(session, request)
        tokens = [text.tokens for text in texts if text.confidence is not None]
        confidences = [text.confidence for text in texts if text.confidence is not None]
        votes = [request.as_text.answer(request.as_text.decode(text)) if confidence >= low else None
                 for text, confidence in zip(tokens, confidences, strict=True)]
        weights = confidences if self.vote == "linear" else [1.0] * len(tokens)
        yield tokens[voted(session, request, tokens, votes, weights)]

    def texts(self, session: Session, request: Request) -> tuple[list[Text], float]:
        """Write all texts, and return them with the threshold that the first ones set."""
        if isinstance(self.over, Search):
            texts = [self.judged(session, request, text) for text in drawn(session, request, self.over, self.n)]
            return texts, self.threshold(texts)
        prefill(session, request, self.over)
        jobs = [partial(self.written, one) for one in each(request, self.n)]
        texts = in_copies(session, jobs[:self.warmup])
        low = self.threshold(texts)
        return texts + in_copies(session, [partial(job, low=low) for job in jobs[self.warmup:]]), low

    def threshold(self, texts: Sequence[Text]) -> float:
        """Return the least confidence that is admitted."""
        return ROUNDED * least([text.confidence for text in texts if text.confidence is not None], self.keep)

    def written(self, request: Request, session: Session, low: float | None = None) -> Text:
        """Write a text, and stop it at the first group below `low`."""
        if low is None:
            return self.judged(session, request, whole(session, afresh(request), self.over))
        watch = Watch(request.prompt, self.top, self.window, low)
        with session.with_logit_warp(watch.warp):
            text = whole(session, afresh(request), self.over, watch.unsure)
        return Text(text, None) if watch.stopped else self.judged(session, request, text)

    def judged(self, session: Session, request: Request, text: list[int]) -> Text:
        """Return a finished text with its confidence."""
        return Text(text, CONFIDENCES["lowest"](session, request.prompt, text, self.top, self.window))
