"""Reranking by a time-reversed model: return the answer after which the question is likeliest.

Yerram et al., Time-Reversal Provides Unsupervised Feedback to LLMs, 2024 (arXiv 2412.02626), the variant TRLM-Fo: the
model itself scores the question after an answer, per token. TRLM-Ba and TRLM-FoBa need a model trained
on reversed text and are not implemented.
`n` answers are drawn. The score is (1 − `mix`) log p(question | answer) + `mix` log p(answer | question), both per
token. An answer with more than the share `copied` of its four-word phrases in the question is returned only if all
are such, because an echo makes the question likely. Of a long question the last `most` tokens are scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.samples import Chosen, first_best, log_p, mean
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob

BEFORE, AFTER = "Answer: ", "\nThe question that this answers is:"
PHRASE = 4  # words


@dataclass(frozen=True)
class TrlmRerank(Chosen):
    """Identities: `n=1` is the other strategy; `mix=1,copied=1` is `best_of_n:score=mean`."""

    n: int = knob(16, "answers sampled", low=1, high=1024, sweep=(1, 4, 8, 16, 32))
    mix: float = knob(0.0, "share of log p(answer | question) in the score", low=0, high=1,
                      sweep=(0.0, 0.25, 0.5, 0.75, 1.0))
    copied: float = knob(0.5, "share of an answer's phrases that may occur in the question; 1 filters nothing",
                         low=0, high=1, sweep=(0.2, 0.5, 1.0))
    most: int = knob(256, "maximum tokens of the question that are scored, its last ones", low=1, high=8192)

    default_over: ClassVar[str] = "temperature"
    paper: ClassVar[str] = "Yerram et al. 2024, arXiv 2412.02626"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt"})

    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """Return the index of the answer with the best score that is not an echo; ties go to the first."""
        texts = [request.as_text.decode(answer) for answer in answers]
        echoes = [echo(text, request.as_text.prompt) > self.copied for text in texts]
        allowed = [i for i, is_echo in enumerate(echoes) if not is_echo] or range(len(answers))
        scores = [0.0] * len(allowed)
        if self.mix < 1:
            scores = [(1 - self.mix) * back for back in self.backward(session, request, [texts[i] for i in allowed])]
        if self.mix > 0:
            forward = [mean(log_p(session, request.prompt, answers[i])) for i in allowed]
            scores = [score + self.mix * more for score, more in zip(scores, forward, strict=True)]
        return allowed[first_best(scores)]

    def backward(self, session: Session, request: Request, texts: Sequence[str]) -> list[float]:
        """Compute the mean log p of the question's tokens after each of the answers; equal answers are scored once."""
        as_text, means, other = request.as_text, dict[str, float](), session.new_sequence()
        question = as_text.tokens(" " + as_text.prompt.strip())[-min(self.most, other.engine.max_len // 2):]
        after = as_text.tokens(AFTER)
        room = other.engine.max_len - len(question)
        try:
            for text in dict.fromkeys(texts):
                start = as_text.encode(BEFORE + text.strip())[:max(1, room - len(after))]
                means[text] = mean(log_p(other, [*start, *after], question))
        finally:
            other.close()
        return [means[text] for text in texts]


def echo(answer: str, question: str) -> float:
    """Return the share of the answer's four-word phrases that occur in the question; 0 for a shorter answer."""
    words, question_words = answer.split(), question.split()
    phrases = [tuple(words[i:i + PHRASE]) for i in range(len(words) - PHRASE + 1)]
    in_question = {tuple(question_words[i:i + PHRASE]) for i in range(len(question_words) - PHRASE + 1)}
    return sum(phrase in in_question for phrase in phrases) / max(1, len(phrases))
