"""Raw prompts for a model with a chat template are noticed, and the task that uses the template is named."""

from types import SimpleNamespace
from typing import Any

import pytest

from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from harness.run.manifest import prompt_warnings
from harness.run.selection import ChosenTask

WORDS = ("humaneval gives chatty raw code, which it continues without its chat template; -t humaneval_instruct asks in "
         "the template.")


@pytest.mark.parametrize(("task", "template", "warnings"), [
    ("humaneval", "{{ messages }}", [WORDS]), ("humaneval", None, []), ("humaneval_instruct", "{{ messages }}", []),
    ("humaneval_plus", "{{ messages }}", []), ("gsm8k", "{{ messages }}", []),
])
def test_raw_code_names_the_task_with_the_template(task: str, template: str | None, warnings: list[str]) -> None:
    model: Any = SimpleNamespace(name="chatty", tokenizer=SimpleNamespace(chat_template=template))
    chosen = ChosenTask(TASKS.build(task), (Example("1", ("def f():",)),), DataSource())
    assert prompt_warnings(model, [chosen], []) == warnings


def test_the_named_task_exists_and_is_a_chat() -> None:
    others = {name: TASKS.get(name).as_chat for name in TASKS.built_in() if TASKS.get(name).as_chat}
    assert others == {"humaneval": "humaneval_instruct"}
    assert all(TASKS.get(other).chat for other in others.values())
