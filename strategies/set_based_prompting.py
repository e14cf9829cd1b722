"""Set-based prompting: the order of a set of texts in the prompt does not matter.

McIlroy-Young et al. 2024 (arXiv 2406.06581). A set stands in the prompt as
`<|start_2d|>member<|split_2d|>member<|end_2d|>`, and there may be several. The members of a set all begin at the same
place behind the text before them, and see that text and themselves, but not each other. What follows sees everything,
and goes on behind the place where the longest member ends. The marks are not read. Each member is tokenized on its own,
so it needs the space before it. Numbers or letters of options would tell their order.

A task may say that parts of its prompt are such a set, as `nano_sets` does; marks are then not needed. A prompt without
sets is read as it is. `temperature` and `p` set the distribution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import Unsupported
from harness.plugins.strategy import Guarantee, Need, Request, Strategy, knob
from strategies.parts.own_prompt import check_last
from strategies.parts.places import START, Layout, Placed, around, pieces


@dataclass(frozen=True)
class SetBasedPrompting(Strategy):
    """Identity: without sets, or with sets of one member, it is `top_p` with the same knobs."""

    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0), also="top_p")

    paper: ClassVar[str] = "McIlroy-Young et al. 2024, arXiv 2406.06581"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "attention"})
    family: ClassVar[str] = "memory"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step; raises `Unsupported` for a model that does not take places as positions."""
        warp, accept = logit_warps.drawn_at(self.temperature, logit_warps.top_p(self.p)), at(self.temperature)
        if START not in request.as_text.prompt and not request.as_text.parts.members:
            yield from one_by_one(session, accept, request, warp)
            return
        check_last(session, self.name)
        layout = self.layout(request)
        hook = Placed.of(layout, session.engine.device)
        placed, sequence = session.new_sequence(), [*layout.tokens, *request.prompt[request.start:]]
        placed.shares_prefixes = False
        while True:
            placed.follow(sequence)
            logits = warp(placed.read(EMPTY, hook).logits, [sequence])
            sequence.append(accept(EMPTY, logits, request.stream)[1])
            yield sequence[-1:]

    def layout(self, request: Request) -> Layout:
        """Return the tokens of the prompt and their places; special tokens begin only the first text."""
        text, layout = request.as_text, Layout()
        parts = pieces(text.prompt) if START in text.prompt else around(text.prompt, text.parts.members)
        for number, piece in enumerate(parts):
            if isinstance(piece, str):
                layout.add((text.tokens if number or not piece else text.encode)(piece))
            elif piece:
                layout.add_set([text.tokens(member) for member in piece])
        if not layout.tokens:
            raise Unsupported("needs a prompt with at least one token")
        return layout
