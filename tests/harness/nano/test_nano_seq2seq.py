"""The embedded encoder-decoder model."""

import pytest

from harness import nano
from harness.backends.vllm import place
from harness.errors import UserError
from harness.models.loading import load
from harness.models.source import source
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.run.loading import draft_name
from harness.store.config import RunConfig


def test_it_has_an_encoder_and_the_tokenizer_of_nano_and_ships_small() -> None:
    model = load(nano.SEQ2SEQ)
    assert "source" in model.engine.offers
    assert model.tokenizer.get_vocab() == load(nano.NANO).tokenizer.get_vocab()
    assert sum(file.stat().st_size for file in nano.weights(nano.SEQ2SEQ).iterdir()) < 1.8e6
    assert source(nano.SEQ2SEQ).packed


@pytest.mark.parametrize("kind", ["edit", "summary"])
def test_it_has_learnt_its_tasks(kind: str) -> None:
    model, right = load(nano.SEQ2SEQ), 0
    task = TASKS.build(f"nano_{kind}")
    for example in task.examples(DataSource())[:8]:
        ids = model.tokenizer(example.turns[0], return_tensors="pt").input_ids
        written = model.engine.model.generate(ids, max_new_tokens=100, do_sample=False)
        right += task.score(example, [model.tokenizer.decode(written[0], skip_special_tokens=True)])[task.headline]
    assert right >= 6


def test_it_has_no_draft_model_and_vllm_cannot_read_it() -> None:
    assert draft_name(RunConfig(model=nano.SEQ2SEQ)) is None
    with pytest.raises(UserError, match="nano-seq2seq has weights in a form that vLLM cannot read"):
        place(nano.SEQ2SEQ)
