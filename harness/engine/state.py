"""Models that carry a state from token to token, alone or beside attention, and how their forwards read trees.

A forward of such a model is one of attention but for its mixers. These are called for parts of each sequence in turn,
never for padding: the part of a sequence from the latest state that is known, through the tokens that are committed,
and each branch of candidates behind it. So the states after what is committed are known when candidates are rejected.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from harness.engine.compute import Depth
from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest, ForwardRows, Row
from harness.engine.hooks import Layer, ModelParts, layer_count, replaced, states_in, states_of, with_states
from harness.engine.mixers import BOTH, RECURRENT, Mixer, Tensors, find_mixers, gathered, reads_chunks
from harness.engine.offers import Capability
from harness.engine.states import Place, State, StateCache
from harness.engine.windows import FULL, STATELESS, Masks
from harness.errors import Unsupported

OFFERS: frozenset[Capability] = frozenset({"tree", "rollback", "prompt", "causal"})


class Parts(ModelParts):
    """The parts of a model with mixers, whose layers are not told apart."""

    @property
    def layers(self) -> list[Layer]:
        """Raises `Unsupported`."""
        raise Unsupported("watches or changes a model layer by layer, and layers of this one carry a state")


@dataclass(eq=False)
class Segment:
    """Consecutive tokens `first` … `last` − 1 of a request, each behind the one before it, and the state after them.

    They are read after the state `base`, None at the start of the sequence, and after the contents of slots `again`,
    which that state has not read. `line` is their row in the forward, and `level` the number of segments before them.
    """

    line: int
    first: int
    last: int
    base: State | None
    again: list[int]
    level: int = 0
    state: State = field(default_factory=State)

    @property
    def shape(self) -> tuple[int, int, int, bool]:
        """What is the same for segments that are read together."""
        return self.level, self.last - self.first, len(self.again), self.base is None


class Group:
    """Segments of one shape with their rows (G, 1), tokens (G, T) and slots (G, S) to read again, on a device."""

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self.segments = segments
        self.rows = torch.tensor([[segment.line] for segment in segments], device=device)
        self.tokens = torch.tensor([range(segment.first, segment.last) for segment in segments], device=device)
        self.slots = torch.tensor([segment.again for segment in segments], dtype=torch.long, device=device)

    def states(self, number: int) -> Tensors | None:
        """Return copies of the states of one mixer before all segments, None at the start of the sequences."""
        found = [segment.base.parts[number] for segment in self.segments if segment.base]
        return gathered(found) if found else None

    def keep(self, number: int, states: Tensors) -> None:
        """Keep the states of one mixer after all segments."""
        for place, segment in enumerate(self.segments):
            segment.state.parts[number] = states, place


class StateEngine(Engine):
    """The engine of a model with mixers.

    If it reads `chunks`, a mixer with a state reads several tokens at once; else one after the other. `again` counts
    the tokens that mixers, but no other part of the model, have read again. Raises `Unsupported` if not all that
    carries a state is known.
    """

    others = RECURRENT | STATELESS
    cache: StateCache

    def __init__(self, model: Any, max_len: int) -> None:
        super().__init__(model, max_len)
        self.mixers, self.again = find_mixers(model), 0
        kinds = self.windows.layers
        if sum(kind in RECURRENT for kind in kinds) > len(self.mixers) or not self.mixers:
            raise Unsupported("cannot tell which parts of it carry a state")
        self.cache = StateCache(layer_count(model), len(self.mixers), self.device)
        self.offers = OFFERS
        self._groups = list[Group]()
        width = int(model.get_input_embeddings().weight.shape[1])
        self.chunks = self.device.type == "meta" or all(reads_chunks(mixer, width) for mixer in self.mixers)
        takes = signature(model.forward).parameters
        self._attends = "position_ids" in takes and bool(self._attentive)

    @cached_property
    def parts(self) -> ModelParts:
        """The model's embedding, norm and output layer."""
        return Parts(self.model)

    @property
    def _attentive(self) -> int:
        """The number of layers with attention."""
        return sum(kind in (FULL, BOTH) for kind in self.windows.layers)

    @property
    def depth(self) -> Depth:
        """The model's layers, by what they attend to."""
        count = layer_count(self.model)
        return Depth(count, 0, 0, count - self._attentive)

    def compile(self) -> None:
        """Raise `Unsupported`, because mixers are called for parts of the sequences."""
        raise Unsupported("a model that carries a state cannot be compiled")

    def close_row(self, row: Row) -> None:
        """Release a row and its states."""
        last = len(self._rows) - 1
        super().close_row(row)
        self.cache.states.pop(last, None)

    def run(self, requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
        """Run one forward for all requests; each row then knows the states after it."""
        first, found = min(request.row.index for request in requests), list[dict[Place, Segment]]()
        for request in requests:
            self.cache.row(request.row.index).cut(request.start)
            found.append(self._read(request, request.row.index - first))
        segments = sorted((one for some in found for one in some.values()), key=lambda segment: segment.shape)
        self._groups = [Group(list(some), self.device) for _, some in groupby(segments, lambda segment: segment.shape)]
        with torch.inference_mode():
            output = super().run(requests)
        for request, some in zip(requests, found, strict=True):
            committed = len(request.tokens) - request.candidates
            self.cache.row(request.row.index).add({place: segment.state for place, segment in some.items()},
                                                  request.start + committed - 1 if committed > 1 else 0)
        self.again += sum(len(segment.again) for segment in segments)
        return output

    def _read(self, request: ForwardRequest, line: int) -> dict[Place, Segment]:
        """Return the segments of a request, in the order of its tokens, by the places of the states after them.

        The last token that is committed is one of its own, because a sequence is often read again from there.
        """
        count, start = len(request.tokens), request.start
        committed, known = count - request.candidates, self.cache.row(request.row.index)
        paths = _paths(request)
        parents = [path.end - 1 for path in paths]  # their slots
        children = Counter(parents)
        starts = [token for token, parent in enumerate(parents)
                  if token in (0, committed - 1, committed) or parent != start + token - 1 or children[parent] > 1]
        found, by_last = dict[Place, Segment](), dict[int, Segment]()
        for first, last in zip(starts, [*starts[1:], count], strict=True):
            before = by_last.get(parents[first])
            state, again = (before.state, []) if before else known.before(paths[first])
            segment = Segment(line, first, last, state, again, before.level + 1 if before else 0)
            by_last[start + last - 1] = segment
            found[Place.of(paths[last - 1].prefix, [*paths[last - 1].path, start + last - 1])] = segment
        return found

    def _plain(self, tokens: Tensor, positions: Tensor, masks: Masks, kept: int) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"use_cache": False}
        if self._attends:
            options = {"attention_mask": masks, "position_ids": positions, "use_cache": True,
                       self.cache_argument: self.cache}
        with replaced({mixer.module: partial(self._mixed, number, mixer, mixer.module.forward)
                       for number, mixer in enumerate(self.mixers)}):
            out = self.model(input_ids=tokens, logits_to_keep=kept, **options)
        assert self._hidden is not None
        return out.logits, self._hidden

    def _mixed(self, number: int, mixer: Mixer, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a mixer for all segments of the forward, those of one shape together, and keep the states after them."""
        x, result = states_in(args, kwargs), None
        held, _ = self.cache.inputs[number].update(x[:, None], x.new_empty(x.shape[0], 1, x.shape[1], 0))
        first = self._groups[0]
        if first.tokens.shape == x.shape[:2] and not first.slots.numel():  # all there is: decoding token by token
            result, states = self._after(mixer, forward, x, first.states(number))
            first.keep(number, states)
            return result
        output = torch.zeros_like(x)
        for group in self._groups:
            some, again = x[group.rows, group.tokens], group.slots.shape[1]
            if again:
                some = torch.cat([held[group.rows, 0, group.slots], some], 1)
            result, states = self._after(mixer, forward, some, group.states(number))
            output[group.rows, group.tokens] = states_of(result)[:, again:]
            group.keep(number, states)
        return with_states(result, output)

    def _after(self, mixer: Mixer, forward: Callable[..., Any], x: Tensor, state: Tensors | None
               ) -> tuple[Any, Tensors]:
        """Return what a mixer returns for inputs (G, T, D) after a state, and the state after them."""
        if self.chunks or state is None or x.shape[1] == 1:
            return mixer.run(forward, x, state)
        outputs, result = list[Tensor](), None
        for place in range(x.shape[1]):
            result, state = mixer.run(forward, x[:, place:place + 1], state)
            outputs.append(states_of(result))
        assert state is not None
        return with_states(result, torch.cat(outputs, 1)), state


def _paths(request: ForwardRequest) -> list[Place]:
    """Return the slots that each token of a request attends to, without its own."""
    count, start = len(request.tokens), request.start
    if request.mask is None:
        return [Place(start + token) for token in range(count)]
    seen = (request.mask == 0).tolist()
    first = start + count - len(seen[0])  # every token sees all slots before this one
    return [Place.of(first, [first + slot for slot, attended in enumerate(row) if attended and first + slot != own])
            for own, row in enumerate(seen, start=start)]
