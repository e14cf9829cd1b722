"""CoT-decoding: continue several first tokens greedily, and return the text whose answer the model is surest of.

Wang and Zhou, Chain-of-Thought Reasoning Without Prompting, 2024 (arXiv 2402.10200, §2). A model that answers at once
when decoded greedily often reasons after another first token. The `k` likeliest tokens after `skip` tokens begin one
text each, which the other strategy completes. Δ is the mean, over the tokens of the final answer, of how much the
likeliest token was more probable than the second. With `vote=sum` the answer with the largest sum of Δ is elected and
its text of the largest Δ returned, with `vote=path` the text of the largest Δ.

The answer is what the task extracts, found at its last place in the text; where it is not found there, Δ is the mean
over the whole text. A text without an answer is returned only if none has one. The authors' code was not read.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from harness.decoding.confidence import gap
from harness.decoding.samples import completed, in_copies, mean, scored, voted, whole
from harness.decoding.search import best
from harness.engine.session import Session
from harness.plugins.strategy import Over, Request, RequestText, knob


@dataclass(frozen=True)
class CotDecoding(Over):
    """Identity: `k=1` is `greedy`."""

    k: int = knob(10, "first tokens that are tried", low=1, high=1024, sweep=(1, 2, 5, 10, 20))
    skip: int = knob(0, "tokens of the other strategy before the one that is tried", low=0, high=1_000_000)
    vote: str = knob("sum", "elect an answer by the sum of its texts, or take the surest text", choices=("sum", "path"),
                     sweep=("sum", "path"))

    paper: ClassVar[str] = "Wang and Zhou 2024, arXiv 2402.10200"
    family: ClassVar[str] = "many-samples"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the chosen text whole."""
        texts = self.texts(session, request)
        yield texts[self.choose(session, request, texts) if len(texts) > 1 else 0]

    def texts(self, session: Session, request: Request) -> list[list[int]]:
        """Return a text (token ids) for each of the tokens that are tried, the likeliest first."""
        start = list[int]()
        if self.skip:
            start = whole(session, replace(request, max_new_tokens=min(self.skip, request.max_new_tokens)), self.over)
            if len(start) < self.skip or len(start) == request.max_new_tokens or request.ends(start):
                return [start]
        session.follow([*request.prompt, *start])
        tried = best(session.read().logits[0], self.k).tolist()
        return in_copies(session, [partial(completed, request=request, over=self.over, start=[*start, token], number=i)
                                   for i, token in enumerate(tried)])

    def choose(self, session: Session, request: Request, texts: Sequence[list[int]]) -> int:
        """Return the index of the text to return."""
        votes = [request.as_text.answer(request.as_text.decode(text)) for text in texts]
        known = any(vote is not None for vote in votes)
        sure = [self.sureness(session, request, text, vote) if vote is not None or not known else 0.0
                for text, vote in zip(texts, votes, strict=True)]
        if self.vote == "path":
            votes = [str(i) if vote is not None or not known else None for i, vote in enumerate(votes)]
        return voted(session, request, texts, votes, sure)

    def sureness(self, session: Session, request: Request, text: list[int], answer: str | None) -> float:
        """Return Δ of a text (token ids) with this answer."""
        gaps = scored(session, request.prompt, text, lambda logits, part: gap(logits))
        return mean(gaps[place(request.as_text, text, answer)] if answer else gaps)


def place(text: RequestText, tokens: Sequence[int], answer: str) -> slice:
    """Return the tokens of the last place of `answer` in the text of `tokens`; all tokens if it is not there.

    Commas may be inside it, as in 1,234, and it is not a part of a longer word if it is elsewhere whole.
    """
    written, body = text.decode(tokens), ",?".join(map(re.escape, answer))
    found = re.search(rf"(?s:.*)(?<!\w)({body})(?!\w)", written) or re.search(rf"(?s:.*)({body})", written)
    if not found:
        return slice(None)

    def length(count: int) -> int:
        return len(text.decode(tokens[:count]))
    counts = range(len(tokens) + 1)
    return slice(bisect_right(counts, found.start(1), key=length) - 1, bisect_left(counts, found.end(1), key=length))
