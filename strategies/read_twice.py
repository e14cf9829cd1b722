"""Just read twice: the context of a prompt is repeated, so that it is read again after the question is known.

Arora et al. 2024 (arXiv 2407.05483), JRT-Prompt. A model with a bounded memory, recurrent or with a KV cache that is
cut, must choose what to keep of a context; the second time it knows what it is asked. The question is the last line
of the prompt, or of the user's last message in a chat; the context, all before it, is read `copies` times. With
`question_first` the question also precedes them, as in the paper's prompts for SQuAD and FDA. A prompt of a single line
is repeated whole.

It comes last in a spec, `streaming:window=256+read_twice` or `greedy+dry+read_twice`: it replaces the prompt, which
strategies after it would not know.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Need, Over, Request, knob
from strategies.parts.own_prompt import check_last


@dataclass(frozen=True)
class ReadTwice(Over):
    """Identity: `copies=1` is the other strategy."""

    copies: int = knob(2, "times that the context is read; 1 changes nothing", low=1, high=16, sweep=(1, 2, 3))
    question_first: bool = knob(True, "also put the question before the copies", sweep=(True, False))

    paper: ClassVar[str] = "Arora et al. 2024, arXiv 2407.05483"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt"})
    family: ClassVar[str] = "memory"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield the steps of the other strategy; raises `UserError` if prompt and answer do not fit into the context.

        Raises `Unsupported` under a strategy that warps the logits of sequences after the prompt as it was.
        """
        if self.copies > 1:
            check_last(session, self.name)
            request = self.repeated(request)
            limit = min(one.engine.max_len for one in [session, *([session.draft] if "draft" in self.needs else [])])
            if len(request.prompt) + request.max_new_tokens > limit:
                raise UserError(f"the prompt has {len(request.prompt)} tokens with {self.copies} copies of its context "
                                f"and the answer up to {request.max_new_tokens}, but the context of the model is "
                                f"{limit}: lower copies or --max-new-tokens.")
        yield from self.over.generate(session, request)

    def repeated(self, request: Request) -> Request:
        """Return the request with the repeated prompt; the tokens that belong to the answer stay."""
        text = request.as_text.edited(self.again)
        return replace(request, prompt=(*text.encode(text.prompt), *request.prompt[request.start:]), text=text)

    def again(self, prompt: str) -> str:
        """Return the text with its context repeated."""
        body = prompt.rstrip()
        context, _, question = body.rpartition("\n")
        first = [question] if context and self.question_first else []
        copies = [context or question] * self.copies
        return "\n".join([*first, *copies, *([question] if context else [])]) + prompt[len(body):]
