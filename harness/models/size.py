"""The memory that a model needs, told before it is loaded."""

from dataclasses import dataclass
from typing import Any

import torch

from harness.engine.cache import free_bytes
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.errors import UserError

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


def meta_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Return a model of this configuration without weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@torch.inference_mode()
def size_of(model: Any, longest: int) -> Size:
    """Return the size of a model, which may have no weights: one token is written to a KV cache without contents."""
    session = Session(engine := Engine(model, longest))
    session.follow([1])
    session.read()
    session.close()
    return Size(sum(weight.numel() for weight in model.parameters()),
                sum(weight.nbytes for weight in model.parameters()), engine.cache.slot_bytes(), longest)


def check_memory(name: str, config: Any, dtype: torch.dtype, device: str) -> None:
    """Raise `UserError` if the weights of a model do not fit into the free memory of a device."""
    weights, free = sum(weight.nbytes for weight in meta_model(config, dtype).parameters()), free_bytes(device)
    if weights > free:
        raise UserError(f"'{name}' needs {weights / 1e9:.3g} GB for its weights but {free / 1e9:.3g} GB are free; give "
                        "--dtype bfloat16 if it is float32, or a smaller model.")
