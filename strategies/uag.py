"""Speculative decoding with a draft model of another vocabulary: drafts are text, which each model encodes for itself.

Universal assisted generation, Timor et al. 2025 (arXiv 2502.05202, string-level exact match), and transformers. The
draft model reads the text of the sequence in its own tokens and writes its likeliest `gamma` tokens. Their text is the
draft, encoded with the tokenizer of the target. Any text can be drafted, also where the vocabularies have little in
common, but the probabilities of the draft model are lost.

`temperature` and `p` set the distribution, which is exact: drafts count as chosen, so each is accepted with its
probability under the target. Unlike transformers, which converts a window of the last tokens and searches where it fits
to what was converted before, each step encodes the whole text anew. Special tokens, such as those of a chat, are passed
on if both have them. A step whose sequence ends within a character drafts nothing, and a draft that ends within one
loses that end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.loop import Drafter, Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.models.translation import Translation
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.chain import ModelChain


class TextChain:
    """Drafts the text of the draft model's likeliest `gamma` tokens, in tokens of the target."""

    def __init__(self, draft: Session, translation: Translation, gamma: int) -> None:
        self.session, self.translation, self.gamma = draft, translation, gamma

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens; EOS ends it."""
        if self.translation.unfinished(sequence):
            return EMPTY
        read, ends = self.translation.encoded(sequence), self.translation.draft.eos_token_id
        written, room = list[int](), self.session.engine.max_len - len(read)
        while read and len(written) < min(self.gamma, limit, room) and ends not in written:
            self.session.follow([*read, *written])
            written += self.session.read().best
        text = self.translation.written(read, written)
        tokens = self.translation.following(sequence, text)
        if ends in written:
            tokens += [one for one, other in self.translation.pairs.items() if other == ends]
        return TokenTree.chain(tokens[:limit])


@dataclass(frozen=True)
class Uag(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs.

    At temperature 0 it is `speculative` with a draft model of the same vocabulary.
    """

    gamma: int = knob(4, "tokens that the draft model writes per step", low=1, high=64, sweep=(1, 2, 3, 4, 5, 8, 12),
                      also="num_assistant_tokens")

    paper: ClassVar[str] = "Timor et al. 2025, arXiv 2502.05202"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})
    translates: ClassVar[bool] = True

    def drafter(self, session: Session, request: Request) -> Drafter:
        """Return the draft model; with the target's vocabulary its tokens need no translation."""
        if translation := session.draft.engine.translation:
            return TextChain(session.draft, translation, self.gamma)
        return ModelChain(session.draft, self.gamma, self.logit_warp(), None)
