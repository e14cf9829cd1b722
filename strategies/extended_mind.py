"""Extended mind: each token also attends to the most similar tokens of documents that are not in its context.

Klett and Ahle 2024 (arXiv 2406.02332). The model reads the documents beforehand, in sequences of `context` tokens
that begin every `stride` tokens, and keeps their keys and values, the keys without rotation. In each layer, each head
of each token attends to its own context and to the `k` tokens of the memory whose keys are most similar to its query by
cosine, under one softmax. These keys are as if at position 0. Memories whose cosine is below `floor` are left out.

The documents are the lines of a file, which the model reads once for all prompts; this is not counted. Without a file,
the memory is the prompt but for its last `last` tokens, and the model continues these alone: `k=0` is then the answer
without the first part. Special tokens are not kept in a memory; a first token of the prompt that is special also begins
the rest. The authors use 12 tokens to answer questions, and 3 for perplexity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decoding.governed import GovernedCache
from harness.engine.attention_hooks import Attend
from harness.engine.cache_policy import CachePolicy, LayerAttention
from harness.engine.engine import Engine
from harness.engine.hooks import View
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.data import read_text
from harness.plugins.strategy import Request, knob
from strategies.parts.states import States, read

NOTHING = States((), (), ())
_known = WeakKeyDictionary[Engine, dict[tuple[str, int, int], States]]()


@dataclass(frozen=True)
class Recall(CachePolicy):
    """Lets each head attend to `k` tokens of a memory too, in the layers of `where`."""

    memory: States
    k: int
    floor: float
    where: str

    rotates: ClassVar[bool] = True

    def attention(self, view: View) -> LayerAttention | None:
        """Attend to the context and to the memory."""
        if not self.k or not self.memory.count:
            return None
        count = len(self.memory.keys)
        first = {"all": 0, "upper": count // 2, "last": count - 1}[self.where]

        def attend(layer: int, own: Attend, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor,
                   *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            if layer >= first:
                more = (self.memory.keys[layer], self.memory.values[layer])
                key, value = (torch.cat([states.expand(len(query), -1, -1, -1), here], 2)
                              for states, here in zip(more, (key, value), strict=True))
                mask = torch.cat([self.seen(layer, query, mask), mask.expand(-1, query.shape[1], -1, -1)], -1)
            return own(module, query, key, value, mask, *args, **kwargs)

        return attend

    def seen(self, layer: int, query: Tensor, mask: Tensor) -> Tensor:
        """Return an additive mask (B, H, Q, M) of what each head of each token sees of the memory."""
        known = self.memory.directions[layer].repeat_interleave(query.shape[1] // len(self.memory.keys[layer]), 0)
        cosine = normalize(query.float(), dim=-1) @ known.transpose(1, 2)
        best, lowest = cosine.topk(min(self.k, self.memory.count)), torch.finfo(mask.dtype).min
        left_out = (best.values < self.floor) * torch.tensor(lowest, dtype=mask.dtype, device=mask.device)
        return torch.full_like(cosine, lowest, dtype=mask.dtype).scatter(-1, best.indices, left_out)


@dataclass(frozen=True)
class ExtendedMind(GovernedCache):
    """Identities: without a file a prompt of at most `last` tokens, or with a file `k=0`, is the other strategy."""

    documents: str = knob("", "file with a document a line [the first part of the prompt]", file=True)
    k: int = knob(12, "tokens of the memory that each head attends to", low=0, high=100000, sweep=(0, 1, 3, 12))
    layers: str = knob("all", "layers that attend to the memory", choices=("all", "upper", "last"),
                       sweep=("all", "upper", "last"))
    floor: float = knob(-1.0, "lowest cosine of a token that is attended to", low=-1, high=1, sweep=(-1.0, 0.0, 0.25))
    last: int = knob(64, "tokens of the prompt that are no memory, without a file", low=1, high=1000000,
                     sweep=(16, 64, 256))
    context: int = knob(3072, "tokens that are read together for the memory", low=1, high=1000000)
    stride: int = knob(512, "tokens between the beginnings of what is read together", low=1, high=1000000)

    paper: ClassVar[str] = "Klett and Ahle 2024, arXiv 2406.02332"

    def __post_init__(self) -> None:
        """Raise `UserError` for a file without text."""
        super().__post_init__()
        if self.documents and not read_text(self.documents).strip():
            raise UserError(f"{self.documents} has no text; give a file with a document a line.")

    def policy(self) -> CachePolicy:
        """Return the policy without a memory."""
        return self._recall(NOTHING)

    def _recall(self, memory: States) -> Recall:
        return Recall(memory, self.k, self.floor, self.layers)

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield what the wrapped strategy yields with the memory."""
        memory, request = self._from_file(session, request) if self.documents else self._from_prompt(session, request)
        with session.with_cache_policy(self._recall(memory)):
            yield from self.over.generate(session, request)

    def _from_file(self, session: Session, request: Request) -> tuple[States, Request]:
        """Return the memory of the documents, which are read at most once by each model, and the request."""
        text, engine = read_text(self.documents), session.engine
        known, key = _known.setdefault(engine, {}), (text, self.context, self.stride)
        if self.k and key not in known:
            own, documents = Session(engine), [request.as_text.tokens(line) for line in text.splitlines()]
            try:
                known.setdefault(key, read(own, documents, self.context, self.stride))
            finally:
                own.close()
        return known.get(key, NOTHING), request

    def _from_prompt(self, session: Session, request: Request) -> tuple[States, Request]:
        """Return the memory of the first part of the prompt, and the request for the rest."""
        prompt, tokenizer = request.prompt, request.text and request.text.tokenizer
        special = set(tokenizer.all_special_ids) if tokenizer else set[int]()
        count = len(prompt) - max(self.last, request.kept)
        start = prompt[:1] if prompt[0] in special else ()
        if count <= len(start):
            return NOTHING, request
        memory = read(session, [prompt[:count]], self.context, self.stride, special) if self.k else NOTHING
        return memory, replace(request, prompt=(*start, *prompt[count:]))
