"""Scores of finished answers by a model: log probabilities, entropies, and the last hidden states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

import torch
from torch import Tensor

from harness.models.loading import Model

Text = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a prompt, never empty, and of its answer
BYTES = 1 << 28  # limit of the logits of one forward pass, in float32; a single longer text may exceed it
SLICE = 1 << 26  # limit of each float32 tensor that is computed from them at once
WINDOWS = (16, 32, 128, 512)  # numbers of earlier tokens that `token_rep` compares with


@dataclass(frozen=True)
class AnswerScores:
    """A model's scores of one answer after its prompt, computed in float32.

    For each token of the answer, `surprisal` is -log p in nats, `entropy` the entropy of the model's distribution at
    that position in nats, and `best` the likeliest token. `feature` (D,) is the hidden state of the last token.
    `cosine` is the cosine similarity of the mean hidden states of prompt and answer, None for an empty answer.
    """

    text: Text
    surprisal: list[float]
    entropy: list[float]
    best: list[int]
    feature: Tensor
    cosine: float | None

    @property
    def logp(self) -> float:
        """Return log p of the whole answer, in nats."""
        return -sum(self.surprisal)

    @property
    def greedy(self) -> float | None:
        """Return the share of tokens that are the likeliest; None for an empty answer."""
        return fmean(a == b for a, b in zip(self.text[1], self.best, strict=True)) if self.best else None

    @property
    def uncertainty(self) -> float | None:
        """Return the mean entropy in nats; None for an empty answer."""
        return fmean(self.entropy) if self.entropy else None

    @property
    def uneven(self) -> float | None:
        """Return the variance of the surprisal; None for an empty answer (arXiv 2010.02650)."""
        return pvariance(self.surprisal) if self.surprisal else None

    @property
    def rep(self) -> float | None:
        """Return the mean of `token_rep` over `WINDOWS`; None for an empty answer (Welleck et al. 2020)."""
        return fmean(token_rep(*self.text, self.best, size) for size in WINDOWS) if self.best else None


def token_rep(prompt: Sequence[int], answer: Sequence[int], best: Sequence[int], size: int,
              wrong: bool = False) -> float:
    """Return the share of positions whose likeliest token is among the `size` tokens before it (rep/l).

    With `wrong`, only positions count whose likeliest token differs from the answer's (wrep/l). Source: arXiv
    1908.04319.
    """
    text, start = [*prompt, *answer], len(prompt)
    return fmean(token in text[max(0, start + i - size):start + i] and not (wrong and token == answer[i])
                 for i, token in enumerate(best))


@torch.inference_mode()
def score_answers(model: Model, texts: Sequence[Text]) -> Mapping[Text, AnswerScores]:
    """Score every answer; equal texts are scored once.

    Texts of similar length share a forward pass. They are padded on the right, which causal attention ignores, so no
    mask is needed. Texts must not exceed the model's context (see `fitted`).
    """
    left = sorted(set(texts), key=lambda text: (len(text[0]) + len(text[1]), text))
    scores: dict[Text, AnswerScores] = {}
    while left:
        longest = len(left[-1][0]) + len(left[-1][1])
        count = max(1, BYTES // (4 * longest * model.vocab))
        batch, left = left[-count:], left[:-count]
        scores |= zip(batch, _score_batch(model, batch), strict=True)
    return scores


def fitted(model: Model, prompt: Sequence[int], answer: Sequence[int]) -> Text:
    """Cut a text to the model's context: first the start of the prompt, then the end of the answer."""
    longest = model.engine.max_len
    kept = tuple(answer[:longest - 1])
    return tuple(prompt[-(longest - len(kept)):]), kept


def _score_batch(model: Model, batch: Sequence[Text]) -> list[AnswerScores]:
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    first = min(len(prompt) for prompt, _ in batch) - 1  # no logits are needed before this position
    ids = torch.tensor([[*prompt, *answer] + [0] * (width - len(prompt) - len(answer)) for prompt, answer in batch],
                       device=model.engine.device)
    states: list[Tensor] = []
    hook = model.engine.model.get_decoder().register_forward_hook(
        lambda _, __, out: states.append(out.last_hidden_state))
    try:
        logits = model.engine.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False,
                                    logits_to_keep=width - first).logits
    finally:
        hook.remove()
    return [_scores(text, row[len(text[0]) - 1 - first:][:len(text[1])], hidden)
            for text, row, hidden in zip(batch, logits, states[0], strict=True)]


def _scores(text: Text, logits: Tensor, hidden: Tensor) -> AnswerScores:
    """Compute scores from the (A, V) logits before each token of the answer and the (T, D) hidden states of the text.

    Only a slice of the logits is converted to float32 at a time, which limits the memory (`SLICE`).
    """
    start, end = len(text[0]), len(text[0]) + len(text[1])
    tokens = torch.tensor(text[1], dtype=torch.long, device=logits.device)[:, None]
    surprisal, entropy, best = list[float](), list[float](), list[int]()
    rows = max(1, SLICE // (4 * logits.shape[-1]))
    for first in range(0, len(logits), rows):
        part = logits[first:first + rows].float()
        best += part.argmax(-1).tolist()
        logp = part.log_softmax(-1)
        surprisal += (-logp.gather(1, tokens[first:first + rows])[:, 0]).tolist()
        entropy += torch.special.entr(logp.exp_()).sum(-1).tolist()
    before, after = hidden[:start].float().mean(0), hidden[start:end].float().mean(0)
    cosine = float(torch.cosine_similarity(before, after, dim=0)) if end > start else None
    return AnswerScores(text, surprisal, entropy, best, hidden[end - 1].float().cpu(), cosine)
