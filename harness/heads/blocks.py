"""Small parts of which heads are made."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.layer import DraftLayer
from harness.heads.network import TargetParts

LLAMA = {"input_norm": "input_layernorm", "attention.q": "self_attn.q_proj", "attention.k": "self_attn.k_proj",
         "attention.v": "self_attn.v_proj", "attention.o": "self_attn.o_proj", "mlp_norm": "post_attention_layernorm",
         "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
"""The parts of a draft layer, and their names in a layer of Llama."""


class Residual(nn.Module):
    """x + SiLU(A x + b), which is x at first; with other `inputs` than outputs, the first x is a linear map of it.

    In training, inputs are dropped with probability `dropout`.
    """

    def __init__(self, size: int, inputs: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear = nn.Linear(inputs or size, size)
        self.around = nn.Linear(inputs, size) if inputs else nn.Identity()
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, `inputs`) → (…, D)."""
        x = functional.dropout(x, self.dropout, self.training)
        found: Tensor = self.around(x) + functional.silu(self.linear(x))
        return found


def output_like(target: TargetParts, bias: bool = False, tokens: int = 0) -> nn.Linear:
    """Return an output layer from states (…, D) to logits (…, V), or those of the first `tokens`, like the target's."""
    output = nn.Linear(target.hidden, tokens or target.vocab, bias=bias)
    with torch.no_grad():
        output.weight.copy_(target.head.weight[:output.out_features])
        if bias:
            output.bias.zero_()
    return output


def start_as_last(layer: DraftLayer, target: TargetParts) -> None:
    """Copy the weights of the target's last layer, if that has the parts and sizes of this one."""
    theirs, own = dict(target.parts.layers[-1].whole.named_parameters()), dict(layer.named_parameters())
    pairs = [(own[f"{part}.weight"], theirs.get(f"{name}.weight")) for part, name in LLAMA.items()]
    if all(weight is not None and weight.shape == mine.shape for mine, weight in pairs):
        for mine, weight in pairs:
            mine.data.copy_(weight)  # type: ignore[arg-type]


def norm_like(target: TargetParts, eps: float) -> nn.RMSNorm:
    """Return a norm of states (…, D) that starts with the scale of the target's final norm."""
    norm, weight = nn.RMSNorm(target.hidden, eps), getattr(target.parts.norm, "weight", None)
    if isinstance(weight, Tensor) and weight.shape == norm.weight.shape:
        norm.weight.data.copy_(weight)
    return norm
