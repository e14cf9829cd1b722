"""Small parts of which heads are made."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.network import TargetParts


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


def output_like(target: TargetParts, bias: bool = False) -> nn.Linear:
    """Return an output layer, from states (…, D) to logits (…, V), that starts as the target's."""
    output = nn.Linear(target.hidden, target.vocab, bias=bias)
    with torch.no_grad():
        output.weight.copy_(target.head.weight)
        if bias:
            output.bias.zero_()
    return output
