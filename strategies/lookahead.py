"""Lookahead decoding: verify n-grams collected earlier, and collect new ones in the same forward.

Fu et al. 2024 (arXiv 2402.02057, §3). A window of `window` columns and `ngram` − 1 levels holds Jacobi trajectories:
each column is read below its own lower levels, and the model's prediction after the top one completes an n-gram for the
pool. The pool keeps the `guesses` newest n-grams of every first token; those that begin with the last token are
checked. `from_prompt` puts the prompt's n-grams into the pool at the start. `temperature` and `p` set the distribution,
which is exact. The window starts from the prompt's tokens in order, where the paper draws at random.

Window tokens are read in the tree but never accepted, so that with `guesses=0` a step commits one token; they count
as drafted. The window narrows as the text nears its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import ROOT, TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters.trie import trie


@dataclass(frozen=True)
class Windowed(TokenTree):
    """A tree of which only the first `candidates` nodes may be accepted; the others extend the window."""

    candidates: int = 0

    def children(self) -> dict[int, list[int]]:
        """The children of every node, among the candidates only."""
        return TokenTree(self.tokens[:self.candidates], self.parents[:self.candidates]).children()


class Pool:
    """N-grams by their first token, at most `most` for each; the least recently seen one leaves first."""

    def __init__(self, most: int) -> None:
        self.most, self.found = most, dict[int, dict[tuple[int, ...], None]]()

    def add(self, first: int, rest: Sequence[int]) -> None:
        """Keep that `rest` followed `first`."""
        if self.most:
            known = self.found.setdefault(first, {})
            known.pop(tuple(rest), None)
            known[tuple(rest)] = None
            if len(known) > self.most:
                del known[next(iter(known))]

    def after(self, first: int) -> list[tuple[int, ...]]:
        """What followed `first`, newest first."""
        return list(self.found.get(first, ()))[::-1]


class Window:
    """`levels[l][i]` is the token of column i at level l, l + i places after the text's last token, `levels[0][0]`.

    Until there are `most` levels, a step adds one and drops the first column; the start is wider by as many columns.
    """

    def __init__(self, start: Sequence[int], most: int) -> None:
        self.levels, self.most, self.rows = [list(start)], most, list[int]()

    def grow(self, tree: TokenTree, last: int, limit: int) -> Windowed:
        """`tree` and the window's tokens, at most `limit` deep, below a text that ends with `last`."""
        columns = max(0, min(len(self.levels[0]), limit + 2 - len(self.levels)))
        self.levels = [level[:columns] for level in self.levels]
        tokens, parents, above = [*tree.tokens], [*tree.parents], list[int]()
        for level in self.levels:
            for i, token in enumerate(level):
                if level is self.levels[0] and i == 0:
                    level[0] = last
                    above.append(ROOT)
                    continue
                parents.append(above[i] if level is not self.levels[0] else above[-1])
                above[i:i + 1] = [len(tokens)]
                tokens.append(token)
        self.rows = [node + 1 for node in above]
        return Windowed(tuple(tokens), tuple(parents), candidates=len(tree))

    def move(self, best: Sequence[int], pool: Pool) -> None:
        """Take the model's predictions after the top level: the next level, and the end of an n-gram of each column."""
        new = [best[row] for row in self.rows]
        if len(self.levels) < self.most:
            self.levels = [level[1:] for level in [*self.levels, new]]
            return
        for first, *rest in zip(*self.levels, new, strict=True):
            pool.add(first, rest)
        self.levels = [*self.levels[1:], new]


class Trajectories:
    """The pool's n-grams that begin with the last token, and the window beside them."""

    def __init__(self, window: Window, pool: Pool) -> None:
        self.window, self.pool, self.likeliest = window, pool, 1

    def draft(self, text: Sequence[int], last: Step, limit: int) -> Windowed:
        """A tree at most `limit` deep."""
        if isinstance(last.tree, Windowed):
            self.window.move(last.best, self.pool)
        return self.window.grow(trie(self.pool.after(text[-1]), limit=limit), text[-1], limit)


@dataclass(frozen=True)
class Lookahead(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    window: int = knob(7, "columns of the window", low=1, high=64, sweep=(5, 7, 10, 15))
    ngram: int = knob(5, "tokens of an n-gram", low=2, high=16, sweep=(3, 5))
    guesses: int = knob(7, "n-grams kept for each first token", low=0, high=64, sweep=(5, 7, 10, 15))
    from_prompt: bool = knob(False, "put the prompt's n-grams into the pool", sweep=(False, True))

    paper: ClassVar[str] = "Fu et al. 2024, arXiv 2402.02057"

    def drafter(self, session: Session, request: Request) -> Trajectories:
        """A window over the text's future, and the pool that it fills."""
        prompt, pool = request.prompt, Pool(self.guesses)
        if self.from_prompt:
            for i in range(len(prompt) - self.ngram + 1):
                pool.add(prompt[i], prompt[i + 1:i + self.ngram])
        start = [prompt[i % len(prompt)] for i in range(self.window + self.ngram - 2)]
        return Trajectories(Window(start, self.ngram - 1), pool)

    def rule(self) -> Accept:
        """`rejection` without q, which is `delta` with the tree's own `children`: the candidates."""
        return rejection
