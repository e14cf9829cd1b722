"""SEA-GUIDE: of the hypotheses of beam search, return the one that leaves out the fewest slots of the source.

A slot is a value in brackets, as in `name[Blue Spice], food[Thai]`, or else a phrase that the task wants. Attention of
the decoder to its tokens tells whether a hypothesis has mentioned it; ties keep the order of the beams. The attention
is recorded by one more forward over all hypotheses. The thresholds are those of T5 and BART in the paper's code;
`python -m strategies.tools.sea_guide_fit` fits them to another model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from harness.decoding.search import Hypothesis
from harness.engine.attention_hooks import WatchSource
from harness.engine.session import Session
from harness.engine.tree import ROOT, TokenTree
from harness.errors import Unsupported
from harness.plugins.strategy import Need, Request, RequestText, knob
from strategies.beam import Beam

IN_BRACKETS = re.compile(r"\[\s*([^\[\]]*[^\[\]\s])\s*\]")
Span = tuple[int, int]
"""The first token of a slot in the source, and the one after its last."""


@dataclass(frozen=True)
class SeaGuide(Beam):
    """With all thresholds above 1 no slot is ever mentioned, and it is `beam`."""

    width: int = knob(10, "beams", low=1, high=256, sweep=(4, 10), also="num_beams")
    early_stopping: str = knob("true", "when a full pool ends the search", choices=("false", "true", "never"),
                               sweep=("false", "true", "never"))
    sure: float = knob(0.9, "least attention of the first layer that mentions a slot for good", low=0, high=2,
                       sweep=(0.7, 0.8, 0.9, 0.95))
    likely: float = knob(0.3, "least mean attention of the lower half of the layers that mentions a slot", low=0,
                         high=2, sweep=(0.2, 0.3, 0.4, 0.5))
    left: float = knob(0.1, "least mean attention of all layers, before an EOS, that shows that a slot was left out",
                       low=0, high=2, sweep=(0.05, 0.1, 0.2))

    paper: ClassVar[str] = "Juraska and Walker 2021, arXiv 2109.07043"
    needs: ClassVar[frozenset[Need]] = frozenset({"source"})

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """Return the hypotheses of beam search, those with the fewest slots left out first."""
        found = super().search(session, request)
        spans = slot_spans(request.text, session.source)
        if not spans:
            return found
        missing = [self.marks(steps).count(False) for steps in watched(session, request, found, spans)]
        return [found[place] for place in sorted(range(len(found)), key=missing.__getitem__)]

    def marks(self, steps: Sequence["Step"]) -> list[bool]:
        """Return whether each slot is mentioned."""
        count = len(steps[0].lower)
        sure, mentioned = [False] * count, [False] * count
        for step in steps:
            for slot in range(count):
                if slot == step.top and step.first >= self.sure:
                    sure[slot] = mentioned[slot] = True
                elif step.last and not sure[slot] and step.whole[slot] >= self.left:
                    mentioned[slot] = False
                elif not step.last and step.lower[slot] >= self.likely:
                    mentioned[slot] = True
        return mentioned


class Step(NamedTuple):
    """What the heads with the highest attention to the source see in one step.

    `top` is the slot with the token that the first layer attends to most, None if it is in none, with the attention
    `first`. `lower` and `whole` are the means over the lower half of the layers and over all of them, the highest of
    each slot's tokens. `last` tells whether the likeliest next token is an EOS.
    """

    top: int | None
    first: float
    lower: list[float]
    whole: list[float]
    last: bool


def slot_spans(text: RequestText | None, source: Sequence[int]) -> list[Span]:
    """Return the tokens of each slot in the source; raises `Unsupported` if they cannot be told.

    Without a value in brackets, slots are the wanted phrases of the task.
    """
    if text is None or not getattr(text.tokenizer, "is_fast", False):
        raise Unsupported("needs a fast tokenizer, which tells where each token is in the text")
    encoded = text.tokenizer(text.prompt, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    cut = len(ids) - len(source)  # tokens of the start that did not fit
    if cut < 0 or list(ids[cut:]) != list(source):
        raise Unsupported("cannot tell which tokens of the source are which part of the prompt")
    parts = [found.span(1) for found in IN_BRACKETS.finditer(text.prompt)]
    if not parts:
        phrases = [phrase for clause in text.wanted for phrase in clause]
        parts = [found.span() for one in phrases for found in re.finditer(re.escape(one), text.prompt)]
    spans = list[Span]()
    for first, last in parts:
        inside = [place for place, (start, end) in enumerate(offsets[cut:])
                  if start < last and end > first and start < end]
        if inside:
            spans.append((inside[0], inside[-1] + 1))
    return spans


def watched(session: Session, request: Request, found: Sequence[Hypothesis], spans: Sequence[Span]
            ) -> list[list[Step]]:
    """Return the steps of each hypothesis. All hypotheses are read in one forward."""
    places = dict[tuple[int, ...], int]()  # the node of each prefix
    tokens, parents = list[int](), list[int]()
    for one in found:
        for size in range(1, len(one.tokens)):
            if one.tokens[:size] not in places:
                parents.append(places.get(one.tokens[:size - 1], ROOT))
                places[one.tokens[:size]] = len(tokens)
                tokens.append(one.tokens[size - 1])
    session.follow(request.prompt[:0])  # so that the first step is read again
    session.follow(request.prompt)
    reading = session.read(TokenTree(tuple(tokens), tuple(parents)), WatchSource())
    seen = reading.captured("source").float().amax(-2)[..., :len(session.source)].cpu()  # (1 + N, layers, S)
    steps = [_step(row, token in request.eos, spans) for row, token in zip(seen, reading.best, strict=True)]
    return [[steps[0], *(steps[1 + places[one.tokens[:size]]] for size in range(1, len(one.tokens)))] for one in found]


def _step(attention: Tensor, last: bool, spans: Sequence[Span]) -> Step:
    top = int(attention[0].argmax())
    slot = next((slot for slot, (start, end) in enumerate(spans) if start <= top < end), None)
    lower, whole = attention[:max(1, len(attention) // 2)].mean(0), attention.mean(0)
    of_lower, of_all = ([float(mean[start:end].max()) for start, end in spans] for mean in (lower, whole))
    return Step(slot, float(attention[0, top]), of_lower, of_all, last)
