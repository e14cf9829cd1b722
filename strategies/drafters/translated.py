"""A draft model with another vocabulary than the target, as if it had that of the target."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import Unsupported
from harness.models.translation import Translation
from strategies.drafters.chain import ModelChain


@dataclass(frozen=True)
class TranslatedRows:
    """Logits (1, V) of the target's tokens."""

    logits: Tensor

    @property
    def best(self) -> list[int]:
        """The likeliest token."""
        best: list[int] = self.logits.argmax(-1).tolist()
        return best


class TranslatedSession:
    """Gives the draft model of `target` the target's tokens, and gets logits of them under the target's warps."""

    def __init__(self, target: Session, translation: Translation) -> None:
        self.target, self.translation, self.tokens = target, translation, list[int]()

    def room(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens that fit into the draft model's context after `tokens` of the target."""
        return self.target.draft.engine.max_len - len(self.translation.to_draft(tokens))

    def follow(self, tokens: Sequence[int]) -> None:
        """Set the sequence to `tokens` of the target."""
        self.tokens = list(tokens)
        self.target.draft.follow(self.translation.to_draft(tokens))

    def read(self) -> TranslatedRows:
        """Compute the sequence."""
        logits = self.translation.logits(self.target.draft.read().logits)
        return TranslatedRows(self.target.logit_warp(logits, [self.tokens]))


class TranslatedChain(ModelChain):
    """Drafts a chain of tokens that both models have, as long as the draft model's context has room."""

    def __init__(self, target: Session, translation: Translation, length: int, warp: Warp, stream: Stream | None
                 ) -> None:
        self.translated = TranslatedSession(target, translation)
        super().__init__(self.translated, length, warp, stream)

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Draft below `sequence` and the tokens `drafted` below it."""
        return super().extend(sequence, drafted, min(limit, self.translated.room([*sequence, *drafted])))


def chain(session: Session, length: int, warp: Warp, stream: Stream | None) -> ModelChain:
    """Return the drafter of `length` tokens with the draft model of `session`, whatever its vocabulary.

    Raises `Unsupported` if the two models have no token in common.
    """
    translation = session.draft.engine.translation
    if not translation:
        return ModelChain(session.draft, length, warp, stream)
    if not translation.pairs:
        raise Unsupported("needs a draft model that has tokens in common with the target; give another with --draft")
    return TranslatedChain(session, translation, length, warp, stream)
