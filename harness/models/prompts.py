"""Prompts of tasks as text and as the model's token ids."""

from collections.abc import Callable, Sequence

from harness.engine.images import Picture
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.models.images import typed, why_not
from harness.models.loading import Model
from harness.models.stop_rule import StopRule
from harness.plugins.prompt_parts import PLAIN, PromptParts
from harness.plugins.strategy import Request, RequestText
from harness.plugins.task import IMAGE, Example, Message

WARM_UP = "Once upon a time there was a small harness that measured how language models decode."
CHAT = {"system": "{}\n", "user": "User: {}\n", "assistant": "Assistant: {}\n"}


def rendered(model: Model, prompt: str | list[Message]) -> str:
    """Return the prompt as text; chats use the tokenizer's chat template or, without one, "User: …" lines.

    A chat whose last message is the assistant's ends in the text of that message, with which the model goes on.
    """
    if isinstance(prompt, str):
        return prompt
    begun = ""
    if prompt[-1]["role"] == "assistant":
        *prompt, last = prompt
        begun = last["content"]
    if template := getattr(model.tokenizer, "chat_template", None):
        given = typed(prompt) if model.images and "type" in template else prompt
        text: str = model.tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True,
                                                        **model.template_args)
        return text + begun
    lines = "".join(CHAT[message["role"]].format(message["content"]) for message in prompt)
    return f"{lines}Assistant:{' ' * bool(begun)}{begun}"


def pictures(model: Model, example: Example) -> list[Picture]:
    """Return the images of an example; raises `UserError` for a model that cannot read them."""
    if example.images and model.images is None:
        raise UserError(why_not(model.name, model.engine.model.config))
    return [model.images.picture(image) for image in example.images] if model.images else []


def encode(model: Model, prompt: str | list[Message], images: Sequence[Picture] = ()) -> list[int]:
    """Return the token ids of the prompt, at least one; special tokens are added unless a chat template adds them."""
    return _ids(model, rendered(model, prompt), _special(model, prompt), images)


def request_text(model: Model, prompt: str | list[Message], rule: StopRule, answer: Callable[[str], str | None],
                 wanted: tuple[tuple[str, ...], ...] = (), banned: tuple[str, ...] = (), schema: str = "",
                 parts: PromptParts = PLAIN, images: Sequence[Picture] = ()) -> RequestText:
    """Return the text view of a request; `rule` decodes the generated tokens, `answer` extracts the task's answer."""
    special = _special(model, prompt)

    kind = "text_target" if "source" in model.engine.offers else "text"  # some have a vocabulary for each language

    def plain_tokens(text: str) -> list[int]:
        return list(model.tokenizer(**{kind: text}, add_special_tokens=False)["input_ids"])

    def render(edit: Callable[[str], str]) -> str:
        if isinstance(prompt, str):
            return edit(prompt)
        last = max((i for i, one in enumerate(prompt) if one["role"] == "user"), default=None)
        return rendered(model, [Message(role=one["role"], content=edit(one["content"])) if i == last else one
                                for i, one in enumerate(prompt)])
    return RequestText(rendered(model, prompt), lambda text: _ids(model, text, special, images), plain_tokens,
                       rule.answer, answer, wanted, banned, schema, model.tokenizer, rule.text, render, parts)


def warm_up(model: Model) -> tuple[Request, StopRule]:
    """Return a request for a few tokens after a prompt of no task, and its stop rule."""
    prompt, source = placed(model, encode(model, WARM_UP))
    rule = StopRule(model.tokenizer, () if source else prompt, frozenset(), ())
    text = request_text(model, WARM_UP, rule, lambda answer: answer.strip() or None,
                        parts=PromptParts(passages=(WARM_UP,)))
    return Request(prompt, 8, PhiloxStream("warm-up"), text=text, source=source), rule


def placed(model: Model, tokens: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens before the answer, and those that an encoder reads, of a prompt with these token ids."""
    return (model.engine.prefix, tuple(tokens)) if "source" in model.engine.offers else (tuple(tokens), ())


def _special(model: Model, prompt: str | list[Message]) -> bool:
    return isinstance(prompt, str) or not getattr(model.tokenizer, "chat_template", None)


def _ids(model: Model, text: str, special: bool, images: Sequence[Picture] = ()) -> list[int]:
    named = text.replace(IMAGE, model.images.marker) if model.images else text
    tokens: list[int] = model.tokenizer(named, add_special_tokens=special)["input_ids"]
    placed = model.images.placed(tokens, images) if model.images else tokens
    return placed or [min(model.eos, default=0)]


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the longest common prefix of `prompts` (token ids)."""
    low, high = min(prompts), max(prompts)  # all prompts between them in order share their common prefix
    return low[:next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))]
