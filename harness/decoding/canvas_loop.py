"""The loop of every strategy for diffusion language models: look at a window, fill some of its masks, go on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.canvas import Canvas
from harness.decoding.confidence import gap
from harness.engine.random_stream import Stream, gumbel
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Need, Request, Strategy, knob

Writes = Callable[["Predicted", Request], Mapping[int, int]]
"""`(seen, request) → tokens` that a step writes, by place; none ends the window."""

ORDERS = ("probability", "margin", "entropy", "random")


@dataclass(frozen=True)
class Predicted:
    """What the model predicts in one step: a token for each place of the window of a `canvas`, and its `score`.

    `step` counts the steps of this window before, and `size` is the number of its places that were open at its start.
    `best` are the likeliest tokens, which `tokens` are too unless these were drawn.
    """

    canvas: Canvas
    tokens: Sequence[int]
    best: Sequence[int]
    scores: Sequence[float]
    step: int
    size: int

    @property
    def ranked(self) -> list[int]:
        """The open places, that with the highest score first."""
        first = self.canvas.window[0]
        return sorted(self.canvas.open, key=lambda place: (-self.scores[place - first], place))

    def written(self, places: Sequence[int]) -> dict[int, int]:
        """Return the tokens that are predicted for these places."""
        return {place: self.tokens[place - self.canvas.window[0]] for place in places}


@dataclass(frozen=True)
class Diffusion(Strategy):
    """Fills masks from the best place on, block by block; a method says how many places a step closes.

    A text goes on with another canvas when it is full; the whole answer is one canvas by default. With `cut`, what is
    behind the first EOS is dropped as soon as that is written (End-of-Text Prediction of Learn2PD, arXiv 2509.25188).
    """

    block: int = knob(32, "places of a window, unless the model has blocks", low=1, high=4096, sweep=(8, 16, 32, 64))
    cache: str = knob("none", "what a forward takes from earlier ones", choices=("none", "prefix", "dual", "block"),
                      sweep=("none", "prefix", "dual"))
    canvas: int = knob(0, "masks that are added at a time; 0 are all that can be needed", low=0, high=65536,
                       sweep=(0, 64, 128))
    cut: bool = knob(False, "whether everything behind an EOS is dropped", sweep=(False, True))
    temperature: float = knob(0.0, "of the tokens; 0 takes the likeliest", low=0, high=10, sweep=(0.0, 0.5, 1.0))

    family: ClassVar[str] = "diffusion"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"canvas"})
    order: ClassVar[str] = "probability"

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        """Return how many open places are closed, by their `scores`, the best first; by default one."""
        return 1

    def writes(self, seen: Predicted, request: Request) -> Mapping[int, int]:
        """Return the tokens that a step writes, by place; none ends the window."""
        ranked = seen.ranked
        first = seen.canvas.window[0]
        return seen.written(ranked[:self.number([seen.scores[place - first] for place in ranked], seen, request)])

    def rounds(self) -> int:
        """Return how many steps may go on in a window without masks, because they edit."""
        return 0

    @property
    def _cuts(self) -> bool:
        """Whether a written EOS ends the text at once; one that may still be edited does not."""
        return self.cut and not self.rounds()

    def changed(self, logits: Tensor, canvas: Canvas, step: int) -> Tensor:
        """Return the logits (W, V) from which a step of a window takes its tokens; by default unchanged."""
        return logits

    @property
    def heat(self) -> float:
        """The temperature at which tokens are drawn from the `changed` logits."""
        return self.temperature

    def begin(self, canvas: Canvas, request: Request) -> None:
        """Prepare a window before its first forward; by default it has masks."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the tokens before the first mask, as soon as they can no longer be edited."""
        return self.fill(session, request, self.writes)

    def fill(self, session: Session, request: Request, writes: Writes) -> Iterator[list[int]]:
        """Yield what `generate` yields, with another choice of what a step writes."""
        canvas, left = Canvas(session, request.prompt, self.cache), request.max_new_tokens
        while left > 0:
            canvas.extend(size := min(self.canvas or left, left))
            left -= size
            while canvas.advance(self.block):
                yield from self._window(canvas, request, writes)
                if canvas.ended:
                    return

    def _window(self, canvas: Canvas, request: Request, writes: Writes) -> Iterator[list[int]]:
        size, step, rounds = len(canvas.open), 0, self.rounds()
        self.begin(canvas, request)
        while canvas.open or rounds:
            rounds -= not canvas.open
            tokens = writes(self._predicted(canvas, request, step, size), request)
            canvas.write(tokens)
            if ends := [place for place, token in tokens.items() if token in request.eos and self._cuts]:
                canvas.cut(min(ends))
            if not tokens:
                break
            step += 1
            if not self.rounds() and (new := canvas.take()):
                yield new
        if new := canvas.take():
            yield new

    def _predicted(self, canvas: Canvas, request: Request, step: int, size: int) -> Predicted:
        logits = self.changed(canvas.look(), canvas, step)
        tokens = drawn(logits, self.heat, request.stream)
        best = logits.argmax(-1) if self.heat else tokens
        scores = scored(logits, tokens, self.order, request.stream)
        rows = torch.stack([tokens.double(), best.double(), scores.double()]).tolist()  # one transfer
        return Predicted(canvas, list(map(int, rows[0])), list(map(int, rows[1])), rows[2], step, size)


def drawn(logits: Tensor, temperature: float, stream: Stream) -> Tensor:
    """Return a token (W,) for each row of logits (W, V): the likeliest at temperature 0, else a sample."""
    if not temperature:
        return logits.argmax(-1)
    noise = gumbel(stream, logits.numel(), logits.device).view_as(logits)
    return (logits.double() / temperature + noise).argmax(-1)


def scored(logits: Tensor, tokens: Tensor, order: str, stream: Stream) -> Tensor:
    """Return the score (W,) of each place, given its token: the higher, the earlier it is closed.

    It is the probability of the token, the margin between the two likeliest ones, the entropy with its sign turned, or
    random.
    """
    if order == "random":
        return stream.uniform(len(tokens), logits.device)
    if order == "margin":
        return gap(logits)
    log_p = logits.log_softmax(-1)
    if order == "entropy":
        return (log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
    return log_p.gather(-1, tokens[:, None])[:, 0].exp()
