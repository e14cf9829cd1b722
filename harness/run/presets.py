"""Named sets of strategies, so that a first comparison needs no list."""

from collections.abc import Sequence
from dataclasses import replace

from harness.errors import UserError, suggestion
from harness.store.config import RunConfig

SPEED = ("greedy", "prompt_lookup", "suffix_decoding", "token_recycling", "lookahead")
QUALITY = ("greedy", "beam", "contrastive_search", "top_p", "min_p", "dola")
WITH_DRAFT = {"speed": ("speculative",), "quality": ("contrastive_decoding",)}
PRESETS = ("speed", "quality", "all")
FEW = 5  # examples of each embedded task in a run that names no task


def preset(name: str, draft: bool) -> Sequence[str]:
    """Return the strategies of a preset: methods that keep greedy's output, that change it, or both.

    With a `draft` model there are methods that need one. Raises `UserError` for an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"There is no preset '{name}'.{suggestion(name, PRESETS)}")
    chosen = list[str]()
    for kind, strategies in (("speed", SPEED), ("quality", QUALITY)):
        if name in (kind, "all"):
            chosen += [*strategies, *(WITH_DRAFT[kind] if draft else ())]
    return list(dict.fromkeys(chosen))


def with_defaults(config: RunConfig) -> RunConfig:
    """Return a run of moderate size: preset `all` unless strategies are given, and few examples unless tasks are."""
    if not (config.strategies or config.preset):
        config = replace(config, preset="all")
    return replace(config, limit=FEW) if not config.tasks and config.limit is None else config
