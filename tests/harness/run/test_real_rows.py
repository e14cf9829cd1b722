"""The real rows of every task go through the whole program; tests/tasks/test_bad_rows.py has the damaged ones."""

from pathlib import Path

import pytest

from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests import realdata
from tests.pair import saved
from tests.watch import Quiet

ROWS = {"gsm8k": 1319, "gsm8k_5shot": 1319, "gsm8k_zeroshot": 1319, "gsm8k_chat": 1319, "humaneval": 164,
        "humaneval_instruct": 164, "mt_bench": 80, "spec_bench": 480}
PARTS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")


@realdata.needs_real_data
def test_every_row_loads_and_is_asked_as_text_or_messages() -> None:
    source = DataSource(realdata.folder())
    for name, count in ROWS.items():
        task = TASKS.build(name)
        examples = task.examples(source)
        assert len({one.id for one in examples}) == len(examples) == count
        for example in examples:
            for turn in range(len(example.turns)):
                prompt = task.prompt(example, ["An answer."] * turn)
                messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
                if name == "humaneval_instruct":
                    assert messages.pop()["role"] == "assistant"
                assert messages[-1]["role"] == "user"
                assert example.turns[turn] in messages[-1]["content"]
    assert source.warnings == []


@realdata.needs_real_data
@pytest.mark.parametrize("spec", ["gsm8k", "humaneval", "mt_bench", *(f"spec_bench:part={part}" for part in PARTS)])
def test_some_rows_run(spec: str, tmp_path: Path) -> None:
    """All of them: `decodebench run -m MODEL -t gsm8k -t humaneval -t mt_bench -t spec_bench --max-new-tokens 2`."""
    config = RunConfig(model=str(saved("llama")), tasks=(spec,), strategies=("greedy",), limit=2, max_new_tokens=2,
                       data=realdata.folder(), truncate_prompts=True, device="cpu", threads=1, output=tmp_path / "run")
    done = run(config, Quiet(), "decodebench run")
    assert (done.samples, done.failed) == (2, 0)
    two = spec in ("mt_bench", "spec_bench:part=mt_bench")
    assert {len(record.turns) for record in Store.open(done.folder).records()} == {2 if two else 1}
