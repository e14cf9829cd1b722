"""PIE: continue an edited prompt from the KV cache of the prompt before the edits, whatever strategy decodes.

Positional integrity encoding, He et al. 2024 (arXiv 2407.03157, §3; without public code, so this follows the paper). A
text in an editor changes while its keys and values are cached. The tokens before an edit stay as they are, the new ones
are computed, and the keys of those behind are rotated by the difference of lengths, so that they have the positions of
the new text. Their values still know the old text. The last token of the prompt is computed again.

The paper's baseline `conflict` does not rotate keys; `stale` continues the old prompt. The old prompt and its edits
come from the task, as those of nano_edit_prompt; without them nothing changes. The edits of tokens are the differences
of both prompts. An editor would have computed the old prompt long before; here that is part of the answer's cost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import ClassVar, NamedTuple

from harness.engine.cached_sequence import shared_start
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.prompt_parts import edited
from harness.plugins.strategy import Need, Over, Request, RequestText, knob


class TokenEdit(NamedTuple):
    """Tokens `first` … `last` − 1, counted after the edits to the left, become `tokens`."""

    first: int
    last: int
    tokens: Sequence[int]


@dataclass(frozen=True)
class Pie(Over):
    """Identity: without edits, or with edits of the last tokens alone, the other strategy."""

    mode: str = knob("turned", "keys behind an edit get their new positions, or keep the old ones; or no edit at all",
                     choices=("turned", "conflict", "stale"), sweep=("turned", "conflict", "stale"))

    paper: ClassVar[str] = "He et al. 2024, arXiv 2407.03157"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "attention"})
    family: ClassVar[str] = "cache"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield what the wrapped strategy yields after the edits."""
        if request.text and (old := before(request.text)):
            if self.mode == "stale":
                request = replace(request, prompt=(*old, *request.prompt[request.start:]))
            elif old != list(request.prompt):
                session.follow(old)
                session.read()
                for edit in edits(old, request.prompt):
                    session.edit(*edit, turned=self.mode == "turned")
        yield from self.over.generate(session, request)


def before(text: RequestText) -> list[int]:
    """Return the tokens of the prompt before its edits, none if there are no edits; raises `Unsupported`."""
    parts = text.parts
    if not parts.edits:
        return []
    new = edited(parts.earlier, parts.edits)
    if new not in text.prompt:
        raise Unsupported("needs a prompt that contains the edited text as the task gives it")
    return text.encode(text.prompt.replace(new, parts.earlier, 1))


def edits(old: Sequence[int], new: Sequence[int]) -> list[TokenEdit]:
    """Return the edits, from left to right, that turn one sequence into another."""
    start = shared_start(old, new)
    end = min(shared_start(old[::-1], new[::-1]), len(old) - start, len(new) - start)
    matcher = SequenceMatcher(None, old[start:len(old) - end], new[start:len(new) - end], autojunk=False)
    return [TokenEdit(start + to, start + to + last - first, new[start + to:start + upto])
            for kind, first, last, to, upto in matcher.get_opcodes() if kind != "equal"]
