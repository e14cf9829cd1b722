"""The heads that ship with nano: small, of its weights, and good enough to show what their methods do."""

import pytest

from harness import nano
from harness.models import trained_head
from harness.models.loading import Model, load
from harness.models.trained_head import WEIGHTS
from harness.nano.corpus import problems
from harness.nano.documents import prompt_text
from harness.plugins.registry import STRATEGIES
from tests.decode import traced

SHIPPED = {folder.name: folder for folder in nano.heads().values()}


@pytest.fixture(scope="module")
def model() -> Model:
    found = load("nano")
    for kind in SHIPPED:
        found.engine.heads[kind] = trained_head.load(f"nano/{kind}", found)
    return found


def test_they_are_small_and_free(model: Model) -> None:
    assert sum((folder / WEIGHTS).stat().st_size for folder in SHIPPED.values()) <= 16_000_000
    for kind in SHIPPED:
        head = model.engine.heads[kind]
        assert (head.card.kind, head.card.target, head.card.licence) == (kind, "nano", "Apache-2.0")
        assert head.card.parameters == head.entry.parameters


@pytest.mark.parametrize("kind", SHIPPED)
def test_each_drafts_most_of_a_word_problem(kind: str, model: Model) -> None:
    """Greedy's tokens, more than one a step."""
    (problem,) = problems("math", "test", 1)
    prompt = list(model.tokenizer(prompt_text(problem.turns[0], "math")).input_ids)
    wanted = traced(STRATEGIES.build("greedy"), model.engine, prompt, new=40, eos=None)[0]
    tokens, work, _ = traced(STRATEGIES.build(kind), model.engine, prompt, new=40, eos=None)
    assert tokens == wanted
    assert work.forwards <= 1 + 39 / 1.3
