"""Self-speculative decoding with an early exit: the lower layers draft, and the upper layers alone verify.

LayerSkip, Elhoushi et al. 2024 (arXiv 2404.16710). The state after the first `exit` of the layers goes through
the final norm and the output layer at once, and drafts `gamma` tokens so. The lower layers' keys are those of the whole
model, and the exit state of each drafted token is kept: verification computes the layers above in one forward that
starts from these states. So the lower layers see each token once, while `layer_skip` computes them twice.

The authors' code exits after 8 layers, a quarter of those of Llama-2-7B, and drafts 6 tokens. Their models are trained
with layer dropout and a loss at each exit. Others, such as nano, guess worse after a few layers, which costs time and
changes no token. The exit state of the last draft takes one more draft forward, whose logits are
not used. Where another strategy governs the KV cache, the whole model verifies. `temperature` and `p` set the
distribution, which is exact: drafts are drawn under the same warps and accepted with min(1, p/q).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import Accept, rejection
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.forward import Row
from harness.engine.hooks import Both, Captured, Enter, ForwardHook, ModelParts, Skip, Watch
from harness.engine.session import Reading, Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters.self_chain import SelfChain


def layers_below(layers: int, share: float) -> int:
    """Return the number of layers below the exit: at least one, and at least one is above it."""
    return min(max(1, int(share * layers + 0.5)), layers - 1)


@dataclass(frozen=True)
class Resume:
    """Begins the forward of a batch at a layer, numbered from 0, with the states that `kept` has for each sequence."""

    layer: int

    def kept(self, parts: ModelParts) -> dict[Row, Tensor]:
        """Return the states (1, W, D) of the next W tokens of each sequence, by its row, to be read and written."""
        kept: dict[Row, Tensor] = parts.prepared.setdefault(self, {})
        return kept

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Give the layer its input in one forward, zeros where a sequence is padded."""
        assert parts.view is not None
        kept, (batch, width) = self.kept(parts), parts.view.slots.shape
        known = next(states for row in parts.view.rows if (states := kept.get(row)) is not None)
        states = known.new_zeros(batch, width, known.shape[-1])
        for place, row in enumerate(parts.view.rows):
            if row in kept:
                own = kept[row][0, :width]
                states[place, :len(own)] = own
        with Enter(self.layer, states).applied_to(parts) as captured:
            yield captured


class ExitChain(SelfChain):
    """Drafts a chain with the layers below `layer`, and keeps their output for the forward that verifies it."""

    def __init__(self, session: Session, owner: "ExitDraft", request: Request) -> None:
        self.parts = session.engine.parts
        layers = len(self.parts.layers)
        below = layers_below(layers, owner.exit)
        above, self.name = frozenset(range(below, layers)), f"hidden:{below}"
        super().__init__(session, Both(Skip(above, above), Watch((self.name,))), owner.gamma, owner.logit_warp(),
                         owner.draws(request))
        self.resume, self.states = Resume(below), list[Tensor]()
        self.verifying: ForwardHook | None = None

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens below `text`, and compute its last token, too."""
        self.states = []
        tree = super().draft(text, last, limit)
        self.verifying = None if self.session.governed else self.resume
        if self.verifying:
            self.read(tree.tokens[-1])
            self.resume.kept(self.parts)[self.session.row] = torch.cat(self.states)[None]
        return tree

    def read(self, token: int) -> Reading:
        """Compute the next token, and keep its exit state."""
        reading = super().read(token)
        self.states.append(reading.captured(self.name))
        return reading

    def end(self) -> None:
        """Forget the states of the sequence."""
        self.resume.kept(self.parts).pop(self.session.row, None)


@dataclass(frozen=True)
class ExitDraft(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    exit: float = knob(0.25, "share of the layers that draft", low=0, high=1, sweep=(0.25, 0.5, 0.75))
    gamma: int = knob(6, "tokens drafted per step", low=1, high=64, sweep=(2, 4, 6), also="num_assistant_tokens")

    paper: ClassVar[str] = "Elhoushi et al. 2024, arXiv 2404.16710"

    def drafter(self, session: Session, request: Request) -> ExitChain:
        """The layers below the exit."""
        return ExitChain(session, self, request)

    def rule(self) -> Accept:
        """min(1, p/q)."""
        return rejection
