"""FiRST: routers read the prompt and decide which layers its whole answer skips.

Jain et al. 2024 (arXiv 2410.12513). A router, a linear layer and a sigmoid, reads the input of each layer, scaled to
unit size here, at every token of the prompt. A layer whose mean over these tokens is below `threshold` is skipped in
the whole answer, so that every layer that a token runs has the keys of all tokens before it. The prompt runs all
layers. Decoding is greedy.

The routers of nano are trained in minutes by `python -m strategies.tools.first_train --out FILE`; with `--tune DIR`
low-rank changes of the model are trained after them, in a copy of the model at DIR. No code of the authors was found:
the mean over the prompt, the threshold and the training of the tool are not checked against theirs.

- `source=profile` needs no router: the file also has the layers in the order in which leaving them out harms the
  model's own answers least, and the first `share` of all layers of that order are skipped, whatever the prompt is.
- `source=random` is the control: as many layers as the routers would skip, drawn for each answer, never the first one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.decoding.hooked import forget, greedily
from harness.engine.hooks import ForwardHook, Skip
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.strategy import Guarantee, Request, Strategy, knob
from strategies.parts.routers import COMMAND, Route, Routers, load

SOURCES = ("routers", "profile", "random")


@dataclass(frozen=True)
class First(Strategy):
    """`threshold=0` is `greedy`, and so is `source=profile,share=0`."""

    file: str = knob("", "the routers, as the tool writes them", file=True)
    source: str = knob("routers", "what chooses the layers", choices=SOURCES, sweep=SOURCES)
    threshold: float = knob(0.5, "mean of a router below which its layer is skipped; 0 is greedy", low=0, high=1,
                            sweep=(0.0, 0.3, 0.5, 0.7))
    share: float = knob(0.2, "for source=profile: share of all layers that are skipped", low=0, high=1,
                        sweep=(0.0, 0.1, 0.2, 0.3))

    paper: ClassVar[str] = "Jain et al. 2024, arXiv 2410.12513"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def __post_init__(self) -> None:
        """Refuse a file that holds no routers."""
        super().__post_init__()
        if self.file:
            load(Path(self.file))

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        if not self.file:
            raise Unsupported(f"needs routers: train them with {COMMAND}, and give first:file=FILE")
        forget(session)  # every token of a prompt counts, and the answer before it lacks keys
        return greedily(session, request, self._skips(load(Path(self.file)).of(session.engine), request))

    def _skips(self, routers: Routers, request: Request) -> Callable[[int], ForwardHook | None]:
        """Return the hook of each step: the routers read the prompt, and the same layers are skipped ever after."""
        route, skip = Route(routers), list[Skip]()

        def hook(step: int) -> ForwardHook | None:
            if not step:
                return route if self.source != "profile" else None
            if not skip:
                skipped = self.chosen(routers, route, request)
                skip.append(Skip(skipped, skipped))
            return skip[0] if skip[0].mlp else None
        return hook

    def chosen(self, routers: Routers, route: Route, request: Request) -> frozenset[int]:
        """Return the layers that an answer skips."""
        if self.source == "profile":
            return frozenset(routers.order[:int(self.share * len(routers.order) + 0.5)])
        low = [layer for layer, few in enumerate((route.means() < self.threshold).tolist()) if few]
        if self.source == "routers":
            return frozenset(low)
        others = request.stream.uniform(len(routers.bias) - 1).argsort().tolist()
        return frozenset(1 + number for number in others[:len(low)])
