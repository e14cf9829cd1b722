"""The prompts to which a target writes the answers that its heads are trained on."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from harness.errors import UserError
from harness.models.loading import Model
from harness.nano.corpus import KINDS, problems
from harness.nano.documents import prompt_text
from harness.run.prepared_prompt import prepare
from harness.run.selection import choose_tasks, first_examples
from harness.store.config import RunConfig

HELD_OUT = 10  # one prompt in so many is held out


def of_nano(model: Model, split: str, count: int, kinds: Iterable[str] = KINDS) -> list[list[int]]:
    """Return the first turns of `count` problems of these kinds of nano's corpus as token ids."""
    return [list(model.tokenizer(prompt_text(one.turns[0], kind)).input_ids)
            for kind in kinds for one in problems(kind, split, count)]


def of_tasks(model: Model, config: RunConfig) -> list[list[int]]:
    """Return the first prompt of each example of a configuration's tasks as token ids, unless it is too long."""
    found = []
    for chosen in choose_tasks(config):
        for example in first_examples(chosen, model, config.limit).examples:
            with suppress(UserError):
                found.append(list(prepare(config, model, model.engine.max_len, chosen.task, example, ()).prompt))
    return found


def parted(prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the prompts for training, and one in `HELD_OUT` that is held out; raises `UserError` if there are too few.
    """
    if len(prompts) < 2 * HELD_OUT:
        raise UserError(f"{len(prompts)} prompts are too few to train a head; give {2 * HELD_OUT} or more.")
    return ([prompt for place, prompt in enumerate(prompts) if place % HELD_OUT],
            [prompt for place, prompt in enumerate(prompts) if not place % HELD_OUT])


