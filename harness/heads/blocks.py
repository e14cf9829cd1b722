"""Small parts of which heads are made."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.network import TargetParts


class Residual(nn.Module):
    """x + SiLU(A x + b), which is x at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return x + functional.silu(self.linear(x))


def output_like(target: TargetParts, bias: bool = False) -> nn.Linear:
    """Return an output layer, from states (…, D) to logits (…, V), that starts as the target's."""
    output = nn.Linear(target.hidden, target.vocab, bias=bias)
    with torch.no_grad():
        output.weight.copy_(target.head.weight)
        if bias:
            output.bias.zero_()
    return output
