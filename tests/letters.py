"""Models that write letters: the likeliest next letters after each letter are scripted."""

from collections.abc import Mapping

import torch

from harness.backends.trace import Trace, trace
from harness.backends.transformers import open_session
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.models.stop_rule import Cut
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText
from tests.markov import Markov

END = "$"


class Letters:
    """A model of `letters` whose next letters after each one are those of `rules`, likeliest first; `$` ends a text."""

    def __init__(self, letters: str, rules: Mapping[str, str]) -> None:
        self.letters = letters
        table = torch.full((len(letters), len(letters)), 1e-9)
        for before, likely in rules.items():
            for rank, letter in enumerate(likely):
                table[letters.index(before), letters.index(letter)] = 0.4 ** rank
        self.engine = Engine(Markov(table / table.sum(1, keepdim=True)), 200)

    def ids(self, text: str) -> list[int]:
        """Return the token of each letter."""
        return [self.letters.index(letter) for letter in text]

    def text(self, tokens: list[int] | tuple[int, ...]) -> str:
        """Return the letters of tokens."""
        return "".join(self.letters[token] for token in tokens)

    @torch.inference_mode()
    def traced(self, spec: str, prompt: str, new: int, draft: "Letters | None" = None, seed: int = 0) -> Trace:
        """Run a strategy as the runner does."""
        strategy = STRATEGIES.build(spec)
        session = open_session(strategy, [self.engine, *([draft.engine] if draft else [])])
        ends = frozenset(self.ids(END)) if END in self.letters else frozenset()
        text = RequestText(prompt, self.ids, self.ids, self.text, lambda answer: answer)  # type: ignore[arg-type]
        request = Request(tuple(self.ids(prompt)), new, PhiloxStream(seed), ends, text=text)
        try:
            return trace(strategy, session, request, _Rule(ends), lambda: 0.0)  # type: ignore[arg-type]
        finally:
            session.close()

    def written(self, spec: str, prompt: str, new: int, draft: "Letters | None" = None, seed: int = 0) -> str:
        """Return what a strategy writes after the prompt."""
        return self.text(self.traced(spec, prompt, new, draft, seed).tokens)


class _Rule:
    def __init__(self, ends: frozenset[int]) -> None:
        self.ends = ends

    def cut(self, tokens: list[int], new: int) -> Cut | None:
        """End the text after an EOS token."""
        end = next((i for i in range(len(tokens) - new, len(tokens)) if tokens[i] in self.ends), None)
        return None if end is None else Cut(end + 1, "eos")
