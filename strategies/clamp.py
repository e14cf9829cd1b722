"""Clamp: add a steering vector to the residual stream, project it onto a value, or set single neurons.

Interventions on hidden states as in codebook features (Tamkin et al. 2023, arXiv 2310.17230), with vectors and neurons
of a file instead of learned codes. A vector v changes a state h after a layer to h + `alpha`·v (`mode=add`), or
replaces the part of h along v by `alpha`·v (`mode=project`; with `alpha=0` that part is removed). A neuron, a number at
the input of an MLP's last product, is set to the value in the file.

`file` is JSON, a list of edits or two sets of texts: see `strategies/parts/steering.py`. Of texts the vector is the
difference of their mean states after the last token, taken after `layer` layers and scaled to their mean norm, because
states grow from layer to layer: `alpha` is then in units of that norm.

With `since=prompt` all tokens are changed, so that no part of the prompt can be shared with other sequences; with
`since=answer` only those from which the answer is predicted, the last token of the prompt among them. `temperature`
and `p` set the distribution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Guarantee, Request, Strategy, knob
from strategies.parts.steering import Contrast, Steered, changes, direction, read


@dataclass(frozen=True)
class Clamp(Strategy):
    """Identities: `mode=add,alpha=0` with vectors or texts, and an empty list, are `top_p` with the same knobs."""

    file: str = knob("", "JSON file of edits or of two sets of texts", file=True)
    alpha: float = knob(0.25, "factor of the vectors", low=-1000, high=1000, sweep=(0.0, 0.1, 0.25, 0.5, 1.0))
    mode: str = knob("add", "what a vector does to a state", choices=("add", "project"), sweep=("add", "project"))
    layer: int | None = knob(None, "layers before the vector of two sets of texts; none for half of them", low=1,
                             high=1000, sweep=(2, 5, 8))
    since: str = knob("answer", "where the change begins", choices=("prompt", "answer"), sweep=("prompt", "answer"))
    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0), also="top_p")

    paper: ClassVar[str] = "Tamkin et al. 2023, arXiv 2310.17230"
    family: ClassVar[str] = "contrast"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def __post_init__(self) -> None:
        """Refuse a file that holds neither edits nor texts."""
        super().__post_init__()
        if self.file:
            read(Path(self.file))

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        warp, accept = logit_warps.drawn_at(self.temperature, logit_warps.top_p(self.p)), at(self.temperature)
        if not (hook := self.hook(session, request)).changes:
            yield from one_by_one(session, accept, request, warp)
            return
        changed, sequence = self.opened(session, request), list(request.prompt)
        while True:
            changed.follow(sequence)
            logits = warp(changed.read(EMPTY, hook).logits, [sequence])
            sequence.append(accept(EMPTY, logits, request.stream)[1])
            yield sequence[-1:]

    def opened(self, session: Session, request: Request) -> Session:
        """Return a sequence for changed keys and values, after the unchanged part of the prompt."""
        session.follow(request.prompt[:request.start - 1] if self.since == "answer" else [])
        if session.tokens:
            session.read()
        changed = session.fork()
        changed.shares_prefixes = False
        return changed

    def hook(self, session: Session, request: Request) -> Steered:
        """Return the hook; raises `UserError` without a file, and `Unsupported` for one of another model."""
        if not self.file:
            raise UserError("clamp needs edits: give file=…, a JSON file of vectors, neurons or texts.")
        engine, given = session.engine, read(Path(self.file))
        key = Steered(("clamp", self.file, self.alpha, self.mode, self.layer), {})
        if key not in engine.parts.prepared:
            if isinstance(given, Contrast):
                layers = len(engine.parts.layers)
                layer = max(1, layers // 2) if self.layer is None else self.layer
                if layer > layers:
                    raise Unsupported(f"there is no layer {layer} in a model of {layers} layers: lower layer")
                idle = not self.alpha and self.mode == "add"
                given = () if idle else (direction(given, layer, request.as_text.encode, engine),)
            engine.parts.prepared[key] = changes(given, self.alpha, self.mode, engine)
        return Steered(key.key, engine.parts.prepared[key])
