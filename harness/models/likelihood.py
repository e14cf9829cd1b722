"""What a model makes of texts that are already written: how likely each token was, and how it reads the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

import torch
from torch import Tensor

from harness.models.loading import Model

Text = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a prompt, never empty, and of its answer
BYTES = 1 << 28  # of logits that a forward may give
WINDOWS = (16, 32, 128, 512)  # tokens that `token_rep` looks back


@dataclass(frozen=True)
class Seen:
    """One answer as a model sees it after its prompt, token by token, in float32.

    `surprisal` is -log p of each token in nats, `entropy` that of the distribution it came from, `best` the likeliest
    token there. `feature` (D,) is the last hidden state of the whole text, `cosine` how alike the mean hidden states
    of prompt and answer are, None for an empty answer.
    """

    text: Text
    surprisal: list[float]
    entropy: list[float]
    best: list[int]
    feature: Tensor
    cosine: float | None

    @property
    def logp(self) -> float:
        """log p of the whole answer, in nats."""
        return -sum(self.surprisal)

    @property
    def greedy(self) -> float | None:
        """The share of tokens that were the likeliest."""
        return fmean(a == b for a, b in zip(self.text[1], self.best, strict=True)) if self.best else None

    @property
    def uncertainty(self) -> float | None:
        """The mean entropy before a token, in nats."""
        return fmean(self.entropy) if self.entropy else None

    @property
    def uneven(self) -> float | None:
        """The variance of the surprisal: 0 for information that is spread evenly (arXiv 2010.02650)."""
        return pvariance(self.surprisal) if self.surprisal else None

    @property
    def rep(self) -> float | None:
        """`token_rep` over windows of 16, 32, 128 and 512 tokens, in the mean (Welleck et al. 2020)."""
        return fmean(token_rep(*self.text, self.best, size) for size in WINDOWS) if self.best else None


def token_rep(prompt: Sequence[int], answer: Sequence[int], best: Sequence[int], size: int,
              wrong: bool = False) -> float:
    """The share of places whose likeliest token is among the `size` tokens before it (arXiv 1908.04319): rep/l.

    With `wrong` only places count where that token is not the one that stands there: wrep/l.
    """
    text, start = [*prompt, *answer], len(prompt)
    return fmean(token in text[max(0, start + i - size):start + i] and not (wrong and token == answer[i])
                 for i, token in enumerate(best))


@torch.inference_mode()
def look(model: Model, texts: Sequence[Text]) -> Mapping[Text, Seen]:
    """What `model` makes of each text; equal texts are read once.

    Texts of like length are read side by side, padded at the right, where no token sees the padding: no mask hides it.
    A text must fit the model (`fitted`).
    """
    left = sorted(set(texts), key=lambda text: (len(text[0]) + len(text[1]), text))
    seen: dict[Text, Seen] = {}
    while left:
        longest = len(left[-1][0]) + len(left[-1][1])
        count = max(1, BYTES // (4 * longest * model.vocab))
        batch, left = left[-count:], left[:-count]
        seen |= zip(batch, _read(model, batch), strict=True)
    return seen


def fitted(model: Model, prompt: Sequence[int], answer: Sequence[int]) -> Text:
    """The text as far as the model can read it: the start of the prompt goes first, then the end of the answer."""
    longest = model.engine.max_len
    kept = tuple(answer[:longest - 1])
    return tuple(prompt[-(longest - len(kept)):]), kept


def _read(model: Model, batch: Sequence[Text]) -> list[Seen]:
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    first = min(len(prompt) for prompt, _ in batch) - 1  # what comes before it is not asked about
    ids = torch.tensor([[*prompt, *answer] + [0] * (width - len(prompt) - len(answer)) for prompt, answer in batch],
                       device=model.engine.device)
    kept: list[Tensor] = []
    hook = model.engine.model.get_decoder().register_forward_hook(lambda _, __, out: kept.append(out.last_hidden_state))
    try:
        logits = model.engine.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False,
                                    logits_to_keep=width - first).logits
    finally:
        hook.remove()
    return [_seen(text, row[len(text[0]) - 1 - first:][:len(text[1])].float(), hidden.float())
            for text, row, hidden in zip(batch, logits, kept[0], strict=True)]


def _seen(text: Text, logits: Tensor, hidden: Tensor) -> Seen:
    """From the (A, V) logits before each token of the answer and the (T, D) hidden states of the text."""
    start, end = len(text[0]), len(text[0]) + len(text[1])
    logp = logits.log_softmax(-1)
    taken = logp.gather(1, torch.tensor(text[1], dtype=torch.long, device=logp.device)[:, None])[:, 0]
    asked, said = hidden[:start].mean(0), hidden[start:end].mean(0)
    return Seen(text, (-taken).tolist(), torch.special.entr(logp.exp()).sum(-1).tolist(), logits.argmax(-1).tolist(),
                hidden[end - 1].cpu(), float(torch.cosine_similarity(asked, said, dim=0)) if end > start else None)
