"""Scales rotary positions, so that a model reads longer texts than those it was trained on.

The rules and the length for which they are made: `linear` (Chen et al. 2023, arXiv 2306.15595), `ntk` (a larger base),
`yarn` (Peng et al. 2023, arXiv 2309.00071), and `truncated` and `power` as in the code of Giraffe
(github.com/abacusai/Long-Context). `dynamic` changes every frequency with each new token, so that the keys in a KV
cache would have others: it is refused.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, suggestion

if TYPE_CHECKING:
    from torch import Tensor

LINEAR, NTK, DYNAMIC, YARN, TRUNCATED, POWER = RULES = ("linear", "ntk", "dynamic", "yarn", "truncated", "power")
SYNTAX = "RULE:FACTOR or RULE:FACTOR:LENGTH, such as yarn:4 or yarn:4:512"


@dataclass(frozen=True)
class Scaling:
    """A rule, its factor, and the `original` length of the model's training texts in tokens, 0 for that of its config.

    With factor 1, `linear`, `ntk` and `yarn` change nothing. `truncated` depends on the length alone, and `power` on
    its factor alone, which is the exponent.
    """

    rule: str
    factor: float
    original: int = 0

    @classmethod
    def parse(cls, text: str) -> "Scaling":
        """Read what `str` writes; raises `UserError` with the syntax."""
        rule, *numbers = text.split(":")
        if rule not in RULES:
            raise UserError(f"There is no RoPE rule '{rule}'.{suggestion(rule, RULES)} Write --rope as {SYNTAX}.")
        try:
            factor, *length = numbers
            found = cls(rule, float(factor), int(length[0]) if length else 0)
        except ValueError:
            raise UserError(f"Write --rope as {SYNTAX}, not '{text}'.") from None
        if len(length) > 1 or not 1 <= found.factor < math.inf or (length and found.original < 8):
            raise UserError(f"--rope takes a factor of at least 1 and a length of at least 8 tokens: '{text}'.")
        if rule == DYNAMIC:
            raise UserError("dynamic changes all positions with every token, so that the keys in the KV cache no "
                            "longer fit: write --rope ntk:FACTOR, with the factor for the longest text.")
        return found

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.rule}:{self.factor:g}" + (f":{self.original}" if self.original else "")

    def apply(self, model: Any) -> int:
        """Change the rotary module of a model, and return the tokens that it may read from now on.

        Raises `UserError` for a model without rotary positions, or whose positions are already scaled.
        """
        config = model.config.get_text_config()
        module: Any = getattr(model.get_decoder(), "rotary_emb", None)
        rules = getattr(config, "rope_parameters", None) or {}
        if not hasattr(module, "inv_freq") or "rope_theta" not in rules:
            raise UserError(f"--rope needs a model with the same rotary positions in all layers, and "
                            f"{type(model).__name__} has none: leave it out.")
        if (kind := rules.get("rope_type", "default")) != "default":
            raise UserError(f"The positions of this model are already scaled ({kind}): leave --rope out.")
        longest = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
        original = self.original or longest
        frequencies, attention = self.frequencies(module.inv_freq, config, original)
        module.inv_freq.copy_(frequencies)
        module.original_inv_freq, module.attention_scaling = module.inv_freq.clone(), attention
        return max(longest, int(original * self.factor)) if self.rule != POWER else longest

    def frequencies(self, plain: "Tensor", config: Any, original: int) -> tuple["Tensor", float]:
        """Return the frequencies (D/2,) in place of the `plain` ones, and the factor of sines and cosines."""
        import torch

        place = torch.arange(len(plain), device=plain.device) / len(plain)
        if self.rule == YARN:
            return _yarn(plain, config, self.factor, original)
        if self.rule == LINEAR:
            return plain / self.factor, 1.0
        if self.rule == NTK:  # that of the base b·s^(D / (D - 2))
            return plain * self.factor ** (-place * len(plain) / (len(plain) - 1)), 1.0
        if self.rule == POWER:
            return plain * (1 - place) ** self.factor, 1.0
        slow = 2 * math.pi / original  # one turn
        found = plain.masked_fill(plain < slow, slow / 16)
        return found.masked_fill(plain < slow / 8, 0.0), 1.0


def _yarn(plain: "Tensor", config: Any, factor: float, original: int) -> tuple["Tensor", float]:
    """Return what transformers computes."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if factor == 1:
        return plain, 1.0
    config = deepcopy(config)
    config.rope_parameters = {**config.rope_parameters, "rope_type": YARN, "factor": factor,
                              "original_max_position_embeddings": original}
    found, attention = ROPE_INIT_FUNCTIONS[YARN](config, plain.device)
    return found, float(attention)
