"""Named sets of strategies, so that a first comparison needs no list."""

from collections.abc import Sequence
from dataclasses import replace

from harness.errors import UserError, suggestion
from harness.store.config import RunConfig

SPEED = ("greedy", "prompt_lookup", "suffix_decoding", "token_recycling", "lookahead")
QUALITY = ("greedy", "beam", "contrastive_search", "top_p", "min_p", "dola")
FIRST = ("greedy", "prompt_lookup", "beam", "contrastive_search", "top_p")
WITH_DRAFT = {"speed": ("speculative",), "quality": ("contrastive_decoding",), "first": ("speculative",)}
KINDS = {"speed": SPEED, "quality": QUALITY, "first": FIRST}
PRESETS = ("first", "speed", "quality", "all")
FIRST_TASKS = ("nano_math", "nano_edit")  # new text, and text that copies the prompt
ENOUGH = 20  # examples of each of them
FEW = 5      # examples of each embedded task in a run that names strategies but no task


def preset(name: str, draft: bool) -> Sequence[str]:
    """Return the strategies of a preset: methods that keep greedy's output, that change it, all, or the `first` to try.

    With a `draft` model there are methods that need one. Raises `UserError` for an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"There is no preset '{name}'.{suggestion(name, PRESETS)}")
    kinds = ("speed", "quality") if name == "all" else (name,)
    return list(dict.fromkeys(strategy for kind in kinds
                              for strategy in (*KINDS[kind], *(WITH_DRAFT[kind] if draft else ()))))


def with_defaults(config: RunConfig) -> RunConfig:
    """Return a run of moderate size: a first comparison if it names no strategies, tasks or limit.

    Otherwise it takes preset `all` unless strategies are given, and few examples unless tasks are.
    """
    if not (config.strategies or config.preset or config.tasks or config.limit):
        return replace(config, preset="first", tasks=FIRST_TASKS, limit=ENOUGH)
    if not (config.strategies or config.preset):
        config = replace(config, preset="all")
    return replace(config, limit=FEW) if not config.tasks and config.limit is None else config
