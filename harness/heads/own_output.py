"""Networks with an output layer of their own, which may be for a part of the vocabulary."""

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.heads.blocks import output_like
from harness.heads.network import Network


class OwnOutput(Network):
    """Drafts `draft_vocab` tokens, a setting, or all if that is 0.

    Drafted token i is token i + d2t[i] of the target: the first ones, or those that a loaded head lists.
    """

    def own_output(self) -> nn.Linear:
        """Make an output layer like the target's, and the list of its tokens; raises `UserError` for too many."""
        count, vocab = self.settings.draft_vocab, self.target.vocab
        if count > vocab:
            raise UserError(f"The setting 'draft_vocab' of the head is above the model's {vocab} tokens.")
        if count:
            self.register_buffer("d2t", torch.zeros(count, dtype=torch.long))
        return output_like(self.target, tokens=count)

    def spread(self, logits: Tensor) -> Tensor:
        """Return logits (…, V) from those of the drafted tokens; tokens that are not drafted get the lowest number."""
        if not self.settings.draft_vocab:
            return logits
        rest = logits.new_full((*logits.shape[:-1], self.target.vocab), torch.finfo(logits.dtype).min)
        return rest.index_copy(-1, self._ids(), logits)

    def law(self, states: Tensor) -> Tensor:
        """The target's distribution over the tokens that are drafted."""
        law = super().law(states)
        if not self.settings.draft_vocab:
            return law
        kept = torch.zeros_like(law).index_copy(-1, self._ids(), law[..., self._ids()])
        return kept / kept.sum(-1, keepdim=True).clamp_min(1e-12)

    def _ids(self) -> Tensor:
        """The target's ids of the tokens that are drafted."""
        offsets = self.get_buffer("d2t")
        return offsets + torch.arange(len(offsets), device=offsets.device)
