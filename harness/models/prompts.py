"""From what a task asks to the token ids that a model reads."""

from collections.abc import Callable, Sequence
from typing import Any

from harness.engine.random_stream import PhiloxStream
from harness.models.loading import Model
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Request, RequestText
from harness.plugins.task import Message

WARM_UP = "Once upon a time there was a small harness that measured how language models decode."
CHAT = {"system": "{}\n", "user": "User: {}\n", "assistant": "Assistant: {}\n"}


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
    return _ids(model, shown(model.tokenizer, prompt), _special(model, prompt))


def words(model: Model, prompt: str | list[Message], rule: StopRule, answer: Callable[[str], str | None],
          wanted: tuple[tuple[str, ...], ...] = (), banned: tuple[str, ...] = ()) -> RequestText:
    """A prompt as text; `rule` decodes what follows it, `answer` reads the task's answer off that."""
    special = _special(model, prompt)

    def middle(text: str) -> list[int]:
        return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return RequestText(shown(model.tokenizer, prompt), lambda text: _ids(model, text, special), middle,
                 lambda tokens: rule.before_stop(rule.text(tokens)), answer, wanted, banned)


def warm_up(model: Model) -> tuple[Request, StopRule]:
    """A request for a few tokens after a text that is no example, and the rule that ends it."""
    prompt = encode(model, WARM_UP)
    rule = StopRule(model.tokenizer, prompt, frozenset(), ())
    text = words(model, WARM_UP, rule, lambda answer: answer.strip() or None)
    return Request(tuple(prompt), 8, PhiloxStream("warm-up"), text=text), rule


def _special(model: Model, prompt: str | list[Message]) -> bool:
    return isinstance(prompt, str) or not getattr(model.tokenizer, "chat_template", None)


def _ids(model: Model, text: str, special: bool) -> list[int]:
    tokens: list[int] = model.tokenizer(text, add_special_tokens=special)["input_ids"]
    return tokens or [min(model.eos, default=0)]


def common_start(texts: Sequence[list[int]]) -> list[int]:
    """The tokens that all `texts` begin with."""
    low, high = min(texts), max(texts)  # what these two share, all between them in order share
    return low[:next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))]
