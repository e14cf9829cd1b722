"""KV prediction: the draft model reads the prompt in place of the target, whatever strategy decodes.

Horton et al. 2024 (arXiv 2410.08391, §3). The draft model reads all of the prompt but its last token. Linear maps make
the target's keys and values of these tokens from the draft model's: layer i of the target's m layers from layer
i · n // m of the draft model's n, keys from keys and values from values, with a bias, all heads together. With
`inputs=all`, which is not in the paper, each map reads all keys and values that the draft model has of the token. Keys
are mapped as before their rotation, and then rotated. The target reads the last token, and decoding goes on as usual.
This shortens the time to the first token; the target attends to approximations.

The authors train the maps and the draft model together, by gradient descent on the target's loss. Here both models stay
as they are, and the maps are fitted by ridge regression: those of `map`, a file of `python -m
strategies.tools.kv_prediction`, or without it when they are first needed, on texts of the embedded corpus. A filled
token counts like one whose keys and values the target makes of a hidden state. The draft model must have read the
prompt with the same tokens, so it needs the vocabulary of the target.

On held-out texts of the embedded corpus, nano's first token is 1.7 nats away from that after a prefill, and 1.1 with
`inputs=all`: nano-draft's two layers know too little of what ten layers compute. nano-draft itself is 0.2 nats away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.strategy import Need, Over, Request, knob
from strategies.parts.kv_map import INPUTS, known


@dataclass(frozen=True)
class KvPrediction(Over):
    """Identity: with the target as its own draft model and maps that change nothing, the other strategy."""

    map: str = knob("", "file of python -m strategies.tools.kv_prediction [fitted to the embedded corpus]", file=True)

    inputs: str = knob("own", "what a map reads, without a file: keys or values of one layer, or of all",
                       choices=INPUTS, sweep=INPUTS)

    paper: ClassVar[str] = "Horton et al. 2024, arXiv 2410.08391"
    family: ClassVar[str] = "cache"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft", "prompt", "attention"})

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield what the wrapped strategy yields after a prompt that the draft model has read."""
        draft, tokens = session.draft, request.prompt[:request.start - 1]
        if draft.engine.translation or draft.engine.blind:
            raise Unsupported("needs a draft model that reads the tokens of the target")
        if tokens:
            maps = known(self.map, self.inputs, session.engine, draft.engine, lambda text: request.as_text.encode(text))
            draft.follow(tokens)
            draft.read()
            contents = draft.engine.cache.contents(draft.row.index, len(tokens))
            session.fill(tokens, maps.predict(session.engine, draft.engine, contents))
        yield from self.over.generate(session, request)
