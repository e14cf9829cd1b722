"""From what a task asks to the token ids that a model reads."""

from collections.abc import Sequence
from typing import Any

from harness.backends.transformers import Model
from harness.task import Message

CHAT = {"user": "User: {}\n", "assistant": "Assistant: {}\n"}


def shown(tokenizer: Any, prompt: str | list[Message]) -> str:
    """The prompt as text, chats rendered with the tokenizer's template or, without one, as "User: …" lines."""
    if isinstance(prompt, str):
        return prompt
    if getattr(tokenizer, "chat_template", None):
        text: str = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return text
    return "".join(CHAT[message["role"]].format(message["content"]) for message in prompt) + "Assistant:"


def encode(model: Model, prompt: str | list[Message]) -> list[int]:
    """Token ids of the prompt; special tokens are added unless a chat template has written them. Never empty."""
    special = isinstance(prompt, str) or not getattr(model.tokenizer, "chat_template", None)
    tokens: list[int] = model.tokenizer(shown(model.tokenizer, prompt), add_special_tokens=special)["input_ids"]
    return tokens or [min(model.eos, default=0)]


def common_start(texts: Sequence[list[int]]) -> list[int]:
    """The tokens that all `texts` begin with."""
    low, high = min(texts), max(texts)  # what these two share, all between them in order share
    return low[:next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))]
