"""Says before a run loads or decodes anything whether its models and sequences fit into memory."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from harness import nano
from harness.engine.cache import START, free_bytes
from harness.engine.engine import Engine
from harness.errors import UserError
from harness.models.loading import torch_dtype
from harness.models.size import meta_model, shortage, size_of, weights_of
from harness.models.source import split_dtype
from harness.models.spread import free_of_each
from harness.plugins.strategy import Strategy
from harness.plugins.task import Task
from harness.run.loading import model_dtype, reference_device, used_draft
from harness.run.selection import ChosenTask
from harness.store.config import RunConfig

PLENTY = 10  # free memory over weights from which no cache is too large


def check_room(config: RunConfig, found: Mapping[str, Any], strategies: Sequence[Strategy], tasks: Sequence[Task]
               ) -> None:
    """Raise `UserError` if the weights of target and draft and the longest answer do not fit into the free memory.

    `found` are the configurations of the models by name. Prompts are not counted, since their tokens are not known
    before a model is loaded.
    """
    names = [name for name in (config.model, used_draft(config, strategies))
             if name and name in found and split_dtype(name)[0] not in nano.NAMES]
    if config.backend == "openai" or not names:
        return
    device, dtype = reference_device(config), model_dtype(config)
    models = {name: meta_model(found[name], torch_dtype(split_dtype(name)[1] or dtype)) for name in names}
    sizes = {name: weights_of(model) for name, model in models.items()}
    gpus = free_of_each(device)
    free = sum(gpus.values()) if config.device_map else free_bytes(device)
    if PLENTY * sum(size.weights for size in sizes.values()) < free:
        return
    tokens = longest_answer(config, tasks) if config.backend == "transformers" else 0
    with suppress(Exception):  # of a model that the engine cannot run, as is said when it is loaded
        sizes = {name: size_of(model, sizes[name].longest) for name, model in models.items()}
    if sentence := shortage(sizes, free, tokens, gpus if len(gpus) > 1 and not config.device_map else None):
        raise UserError(sentence)


def room_warnings(config: RunConfig, engines: Sequence[Engine], tasks: Sequence[ChosenTask]) -> list[str]:
    """Return a warning if the KV caches cannot hold all sequences of a batch at the greatest length of an answer."""
    tokens = longest_answer(config, [chosen.task for chosen in tasks])
    if config.backend != "transformers" or not tokens:
        return []
    size, budget = sum(each.cache.slot_bytes() for each in engines), sum(each.cache.budget for each in engines)
    tokens, slots = min(tokens, engines[0].max_len), max(START, budget // size)
    wanted = min(config.concurrency, max(len(chosen.examples) for chosen in tasks) * config.samples)
    if (held := slots // tokens) >= wanted:
        return []
    whole = f"its {wanted} sequences" if wanted > 1 else "a sequence"
    fewer = (f"; if answers get that long, fewer are decoded at a time, as with --concurrency {held}" if held else
             ", so such answers fail; lower --max-new-tokens")
    return [f"The KV cache of {budget / 1e9:.3g} GB does not hold {whole} of {tokens:,} new tokens{fewer}. "
            f"--cache-gb {1.01 * wanted * tokens * size / 1e9:.3g} would hold the answers, without prompts."]


def longest_answer(config: RunConfig, tasks: Sequence[Task]) -> int:
    """Return the most new tokens that a task asks for; texts that a task gives are no answers."""
    return max([0, *(config.max_new_tokens or task.max_new_tokens for task in tasks if not task.given)])
