"""The memory that a model needs, told before it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.engine.session import Session
from harness.errors import UserError
from harness.models.encoder_decoder import auto_class, make_engine

CONTEXT = 1024  # tokens of the sequences whose number is told


@dataclass(frozen=True)
class Size:
    """The size of a model in one precision: its `weights` and the KV cache of one `token`, both in bytes."""

    parameters: int
    weights: int
    token: int
    longest: int

    def rows(self, free: int) -> int:
        """Return the number of sequences of `CONTEXT` tokens that fit beside the weights into half of what is left."""
        return max(0, free - self.weights) // 2 // (self.token * min(CONTEXT, self.longest))

    def halved(self) -> "Size":
        """Return the size in bfloat16 of a model in float32; others stay as they are."""
        full = self.weights == 4 * self.parameters
        return replace(self, weights=self.weights // 2, token=self.token // 2) if full else self


def meta_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Return a model of this configuration without weights."""
    with torch.device("meta"):
        return auto_class(config).from_config(config, dtype=dtype).eval()


@torch.inference_mode()
def size_of(model: Any, longest: int) -> Size:
    """Return the size of a model, which may have no weights: one token is written to a KV cache without contents."""
    session = Session(engine := make_engine(model, longest))
    session.begin([1] if "source" in engine.offers else ())
    session.follow([1])
    session.read()
    session.close()
    return replace(weights_of(model), token=engine.cache.slot_bytes(), longest=longest)


def max_len(model: Any) -> int:
    """Return the longest sequence in tokens that a model reads by its configuration; 2²⁰ if that does not say."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 1 << 20)


def weights_of(model: Any) -> Size:
    """Return the size of the weights of a model, without that of a token."""
    weights = list(model.parameters())
    return Size(sum(weight.numel() for weight in weights), sum(weight.nbytes for weight in weights), 0, max_len(model))


def check_memory(name: str, config: Any, dtype: torch.dtype, free: Mapping[str, int]) -> None:
    """Raise `UserError` if the weights of a model do not fit into the `free` bytes of devices, by their names."""
    if sentence := shortage({name: weights_of(meta_model(config, dtype))}, sum(free.values())):
        raise UserError(sentence)


def shortage(models: Mapping[str, Size], free: int, tokens: int = 0, gpus: Mapping[str, int] | None = None) -> str:
    """Return a sentence that says what would fit if some models and one sequence do not fit into `free` bytes, else "".

    `tokens` is the length of the sequence, and `gpus` are the bytes for weights on each GPU that is not used yet.
    """
    sizes = list(models.values())
    if _total(sizes, tokens) <= free:
        return ""
    halves, advice = [size.halved() for size in sizes], list[str]()
    if halves != sizes and _total(halves, tokens) <= free:
        advice.append(f"--dtype bfloat16 ({_total(halves, tokens) / 1e9:.3g} GB)")
    if gpus and _total(sizes, tokens) <= (room := sum(gpus.values())):
        advice.append(f"--device-map auto ({len(gpus)} GPUs with {room / 1e9:.3g} GB)")
    if tokens and _total(sizes, 0) < free:
        advice.append("a lower --max-new-tokens")
    one, names = len(models) == 1, " and ".join(map(repr, models))
    cache = f" and {(_total(sizes, tokens) - _total(sizes, 0)) / 1e9:.3g} GB for a sequence of {tokens:,} tokens"
    return (f"{names} need{'s' if one else ''} {_total(sizes, 0) / 1e9:.3g} GB "
            f"for {'its' if one else 'their'} weights{cache if tokens else ''}, but {free / 1e9:.3g} GB are free: give "
            f"{' or '.join(advice or ['a smaller model'])}.")


def _total(sizes: Sequence[Size], tokens: int) -> int:
    return sum(size.weights + size.token * min(tokens, size.longest) for size in sizes)
