"""Prompts as text: chats with and without a template, and answers that have begun."""

from types import SimpleNamespace
from typing import Any

import pytest

from harness.models.prompts import rendered
from harness.plugins.task import Message

CHAT: list[Message] = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Well, "}]


class Template:
    """A tokenizer with a chat template."""

    chat_template = "…"

    def apply_chat_template(self, messages: list[Message], **options: Any) -> str:
        """Return the messages in brackets and the start of an answer."""
        assert options == {"tokenize": False, "add_generation_prompt": True, "polite": True}
        return "".join(f"[{one['role']}: {one['content']}]" for one in messages) + "[assistant: "


@pytest.mark.parametrize(("tokenizer", "asked", "begun"), [
    (Template(), "[user: Hi?][assistant: ", "[user: Hi?][assistant: Well, "),
    (SimpleNamespace(chat_template=None), "User: Hi?\nAssistant:", "User: Hi?\nAssistant: Well, "),
])
def test_a_chat_ends_in_the_answer_that_has_begun(tokenizer: Any, asked: str, begun: str) -> None:
    model: Any = SimpleNamespace(tokenizer=tokenizer, template_args={"polite": True}, images=None)
    assert rendered(model, CHAT[:1]) == asked
    assert rendered(model, CHAT) == begun
    assert rendered(model, CHAT) == begun, "the messages are unchanged"
    assert rendered(model, "Hi?") == "Hi?"
