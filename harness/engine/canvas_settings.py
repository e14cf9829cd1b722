"""What the configuration of a model says about the masks that it fills."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError

SHIFTED = {"llada": False, "Dream": True}  # from their published code; unchecked, since it is not in transformers


@dataclass(frozen=True)
class CanvasSettings:
    """How a model fills masks: `config.json` has these fields under `canvas`.

    `mask` is the id of the mask. With `shift`, the logits at a place are those of the next place. Without a `block`,
    each token attends to all others; with one, to its own block of that many tokens, counted from the start of the
    sequence, and to all earlier ones. A model that was trained on `both` can do either.
    """

    mask: int
    shift: bool = False
    block: int = 0
    both: bool = False

    @property
    def caches(self) -> tuple[str, ...]:
        """The cache modes of `Canvas` that suit the model."""
        return ("none", *(("prefix", "dual") if self.both or not self.block else ()),
                *(("block",) if self.block else ()))

    def blocks(self, cache: str) -> int:
        """Return the tokens of a block where attention is by blocks in this cache mode, 0 where it is to all tokens."""
        return 0 if self.both and cache != "block" else self.block


def canvas_settings(config: Any) -> CanvasSettings | None:
    """Return what a configuration says about masks, None for a model that writes from left to right.

    Raises `UserError` if its field `canvas` is wrong.
    """
    found = getattr(config, "canvas", None)
    if found is None:
        kind = getattr(config, "model_type", "")
        return CanvasSettings(int(config.mask_token_id), SHIFTED[kind]) if kind in SHIFTED else None
    vocab = int(config.get_text_config().vocab_size)
    try:
        settings = CanvasSettings(**found) if isinstance(found, Mapping) else None
    except TypeError:
        settings = None
    if settings is None or not (_whole(settings.mask) and _whole(settings.block) and settings.mask < vocab):
        raise UserError("The field canvas of config.json must be like {\"mask\": ID, \"shift\": false, \"block\": 16}, "
                        f"with the id of a token below {vocab}.")
    return settings


def _whole(number: Any) -> bool:
    return isinstance(number, int) and number >= 0
