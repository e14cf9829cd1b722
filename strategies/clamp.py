"""Clamp: add a steering vector to the residual stream, project it onto a value, move it to a code, or set neurons.

Interventions on hidden states as in codebook features (Tamkin et al. 2023, arXiv 2310.17230), with vectors, neurons or
codes of a file. The authors train models whose states are sums of codes; here the model stays as it is, and codes are
the means of clusters of its states. A vector v changes a state h after a layer to h + `alpha`·v (`mode=add`), or
replaces the part of h along v by `alpha`·v (`mode=project`; with `alpha=0` that part is removed). With `mode=code`, h
becomes h + `alpha`·(c − c_h), where c is the code number `code`, and c_h the code that is nearest to h: with `alpha=1`
one code replaces the other. A neuron, a number at the input of an MLP's last product, is set to the value in the file.

`file` is JSON: a list of edits or two sets of texts (see `strategies/parts/steering.py`), or codes, which
`python -m strategies.tools.codebook` writes. Of texts the vector is the difference of their mean states after the
last token, taken after `layer` layers and scaled to their mean norm, because states grow from layer to layer: `alpha`
is then in units of that norm.

With `since=prompt` all tokens are changed, so that no part of the prompt can be shared with other sequences; with
`since=answer` only those from which the answer is predicted, the last token of the prompt among them. `temperature`
and `p` set the distribution.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine import logit_warps
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Guarantee, Request, Strategy, knob
from strategies.parts.codes import Codebook, moved
from strategies.parts.steering import Contrast, Steered, changes, direction, read


@dataclass(frozen=True)
class Clamp(Strategy):
    """Identities: `alpha=0` in the modes add and code, and an empty list, are `top_p` with the same knobs.

    So is a codebook whose codes are all the same.
    """

    file: str = knob("", "JSON file of edits or of two sets of texts", file=True)
    alpha: float = knob(0.25, "factor of the vectors", low=-1000, high=1000, sweep=(0.0, 0.1, 0.25, 0.5, 1.0))
    mode: str = knob("add", "what a vector or a code does to a state", choices=("add", "project", "code"),
                     sweep=("add", "project"))
    code: int | None = knob(None, "number of the code that states are moved to, with mode=code", low=0, high=100000)
    layer: int | None = knob(None, "layers before the vector of two sets of texts; none for half of them", low=1,
                             high=1000, sweep=(2, 5, 8))
    since: str = knob("answer", "where the change begins", choices=("prompt", "answer"), sweep=("prompt", "answer"))
    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0), also="top_p")

    paper: ClassVar[str] = "Tamkin et al. 2023, arXiv 2310.17230"
    family: ClassVar[str] = "contrast"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def __post_init__(self) -> None:
        """Refuse a file that holds neither edits, texts nor codes, or not those of this mode."""
        super().__post_init__()
        if self.file and isinstance(read(Path(self.file)), Codebook) != (self.mode == "code"):
            raise UserError("clamp:mode=code takes a file of codes, and a file of codes takes mode=code.")

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
            raise UserError("clamp needs edits: give file=…, a JSON file of vectors, neurons, texts or codes.")
        prepared = session.engine.parts.prepared
        key = Steered(("clamp", self.file, self.alpha, self.mode, self.layer, self.code), {})
        if key not in prepared:
            prepared[key] = self._changes(session.engine, request)
        return Steered(key.key, prepared[key])

    def _changes(self, engine: Engine, request: Request) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return the change of states at each site."""
        given = read(Path(self.file))
        if isinstance(given, Codebook):
            return moved(given, self.code, self.alpha, engine)
        if isinstance(given, Contrast):
            layers = len(engine.parts.layers)
            layer = max(1, layers // 2) if self.layer is None else self.layer
            if layer > layers:
                raise Unsupported(f"there is no layer {layer} in a model of {layers} layers: lower layer")
            idle = not self.alpha and self.mode == "add"
            given = () if idle else (direction(given, layer, request.as_text.encode, engine),)
        return changes(given, self.alpha, self.mode, engine)
