"""Lexical constraints as token ids, and immutable states of a sequence's progress.

`Constraints` is a conjunction of clauses, each met by one of its phrases, and of banned phrases. Two kinds of state
follow a sequence token by token. `Progress` counts every token once: phrases do not overlap, and a clause given twice
needs its phrase twice (grid beam search, dynamic beam allocation). `Matches` counts every occurrence of a phrase,
overlaps included, so one occurrence meets a clause given twice (NeuroLogic).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from harness.plugins.strategy import Request

Phrase = tuple[int, ...]
Clause = tuple[Phrase, ...]


@dataclass(frozen=True)
class Constraints:
    """One phrase of every clause must occur, and none of `banned`; the order of clauses is irrelevant.

    The first phrase of a clause is its usual form. Raises `ValueError` for an empty clause or phrase.
    """

    clauses: tuple[Clause, ...] = ()
    banned: tuple[Phrase, ...] = ()

    def __post_init__(self) -> None:
        """Sort the clauses."""
        if not all(clause and all(clause) for clause in self.clauses) or not all(self.banned):
            raise ValueError("a clause needs at least one phrase, and a phrase at least one token")
        object.__setattr__(self, "clauses", tuple(sorted(self.clauses)))

    @classmethod
    def of(cls, request: Request) -> "Constraints":
        """Return the request's constraints; none if it has token ids only."""
        if request.text is None:
            return cls()
        tokens = request.as_text.tokens
        return cls(tuple(clause(phrases, tokens) for phrases in request.as_text.wanted),
                   tuple(dict.fromkeys(form for phrase in request.as_text.banned for form in forms(phrase, tokens))))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """For each clause, the length of its shortest phrase."""
        return tuple(min(map(len, clause)) for clause in self.clauses)

    @cached_property
    def longest(self) -> tuple[int, ...]:
        """For each clause, the length of its longest phrase."""
        return tuple(max(map(len, clause)) for clause in self.clauses)

    @cached_property
    def starts(self) -> "dict[int, list[Place]]":
        """The phrases by their first token, in the order of the clauses."""
        starts: dict[int, list[Place]] = {}
        for number, clause in enumerate(self.clauses):
            for phrase in clause:
                starts.setdefault(phrase[0], []).append(Place(number, phrase))
        return starts

    def avoided(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that would complete a banned phrase after the generated `tokens`."""
        return [phrase[-1] for phrase in self.banned
                if tuple(tokens[len(tokens) - len(phrase) + 1:]) == phrase[:-1] and len(tokens) >= len(phrase) - 1]


def clause(phrases: Sequence[str], tokens: Callable[[str], list[int]]) -> Clause:
    """Return the clause that needs one of these words or phrases, in any of their forms."""
    return tuple(dict.fromkeys(form for phrase in phrases for form in forms(phrase, tokens)))


def forms(phrase: str, tokens: Callable[[str], list[int]]) -> list[Phrase]:
    """Return the token ids of a word or phrase after a space, as given and capitalised.

    A word without a space before it, or tokenized otherwise, is not recognised.
    """
    text = phrase.strip()
    return [tuple(tokens(f" {form}")) for form in dict.fromkeys((text, text[:1].upper() + text[1:]))]


@dataclass(frozen=True)
class Place:
    """A phrase of a clause, of which the first `done` tokens have been generated."""

    clause: int
    phrase: Phrase
    done: int = 0

    def next(self) -> "Place":
        """Return the phrase with one more token generated."""
        return replace(self, done=self.done + 1)

    @property
    def token(self) -> int:
        """The next token of the phrase."""
        return self.phrase[self.done]

    @property
    def complete(self) -> bool:
        """Whether the whole phrase has been generated."""
        return self.done == len(self.phrase)


@dataclass(frozen=True)
class _State:
    """The clauses that are met, and the open phrases, which are begun but not complete."""

    wanted: Constraints
    met: frozenset[int] = frozenset()
    open: tuple[Place, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every clause is met."""
        return len(self.met) == len(self.wanted.clauses)

    def beginning(self, token: int) -> list[Place]:
        """Return the phrases of unmet clauses that begin with `token`, with that token generated."""
        return [place.next() for place in self.wanted.starts.get(token, ()) if place.clause not in self.met]

    def unmet(self) -> list[Clause]:
        """Return the clauses that are not met."""
        return [clause for number, clause in enumerate(self.wanted.clauses) if number not in self.met]

    def firsts(self) -> set[int]:
        """Return the tokens that begin a phrase of an unmet clause."""
        return {phrase[0] for clause in self.unmet() for phrase in clause}


@dataclass(frozen=True)
class Progress(_State):
    """A state with one open phrase (several while they share their tokens so far); every token counts once.

    The rules are those of sockeye 1: a token that does not continue an open phrase discards it and does not start
    another one; a token that is a whole phrase meets the first unmet clause with that phrase.
    """

    def advance(self, token: int) -> "Progress":
        """Return the state after one more token."""
        if not self.open and token not in self.wanted.starts:
            return self
        steps = [place.next() for place in self.open if place.token == token] if self.open else self.beginning(token)
        if complete := next((place for place in steps if place.complete), None):
            return replace(self, met=self.met | {complete.clause}, open=())
        return replace(self, open=tuple(steps))

    def allowed(self) -> set[int]:
        """Return the tokens that continue the open phrase or, if none is open, begin one."""
        return {place.token for place in self.open} or self.firsts()

    @property
    def count(self) -> int:
        """The number of constraint tokens generated; no phrase counts more than the shortest of its clause."""
        sizes = self.wanted.sizes
        begun = max((min(place.done, sizes[place.clause] - 1) for place in self.open), default=0)
        return sum(sizes[number] for number in self.met) + begun

    @property
    def left(self) -> int:
        """The minimum number of tokens that would meet all clauses."""
        sizes = self.wanted.sizes
        unmet = sum(size for number, size in enumerate(sizes) if number not in self.met)
        return unmet + min((len(place.phrase) - place.done - sizes[place.clause] for place in self.open), default=0)


@dataclass(frozen=True)
class Grid(Progress):
    """A state of grid beam search: an open phrase must be continued; otherwise free tokens are possible.

    `free` holds the latest tokens outside phrases; None if free tokens never meet a clause.
    """

    free: tuple[int, ...] | None = None

    def forced(self) -> "list[tuple[int, Grid]]":
        """Return the next token of the open phrase, or the first tokens of unmet ones, each with the state after it."""
        places = self.open or [Place(number, phrase) for number, clause in enumerate(self.wanted.clauses)
                               if number not in self.met for phrase in clause]
        after = None if self.free is None else ()
        steps = []
        for place in places:
            step = place.next()
            state = replace(self, met=self.met | {step.clause}, open=(), free=after) if step.complete else \
                replace(self, open=(step,), free=after)
            steps.append((place.token, state))
        return steps

    def wrote(self, token: int) -> "Grid":
        """Return the state after a free token, which meets a clause if it completes a phrase and free tokens count."""
        if self.free is None:
            return self
        latest = (*self.free, token)
        for number, clause in enumerate(self.wanted.clauses):
            if number not in self.met and any(latest[-len(phrase):] == phrase for phrase in clause):
                return replace(self, met=self.met | {number}, free=())
        return replace(self, free=latest[-max(len(phrase) for clause in self.wanted.clauses for phrase in clause):])


@dataclass(frozen=True)
class Turns(Progress):
    """A state with one open clause: a token begins the first waiting clause that it fits.

    A discarded clause waits behind the others. If one alternative is a prefix of another, the shorter one meets the
    clause. `waiting` are the clauses that are neither met nor open, None before the first token.
    """

    waiting: tuple[int, ...] | None = None

    def advance(self, token: int) -> "Turns":
        """Return the state after one more token."""
        if not self.open and token not in self.wanted.starts:
            return self
        clauses = self.wanted.clauses
        waiting = tuple(range(len(clauses))) if self.waiting is None else self.waiting
        if self.open:
            number = self.open[0].clause
            continued = [place.next() for place in self.open if place.token == token]
        else:
            number = next((clause for clause in waiting if any(phrase[0] == token for phrase in clauses[clause])), -1)
            continued = [place for place in self.beginning(token) if place.clause == number]
            waiting = tuple(clause for clause in waiting if clause != number)
        if any(place.complete for place in continued):
            return replace(self, met=self.met | {number}, open=(), waiting=waiting)
        if self.open and not continued:
            waiting += (number,)
        return replace(self, open=tuple(continued), waiting=waiting)

    @property
    def count(self) -> int:
        """The progress in tokens: each clause counts as many as the longest phrase, and generated tokens count last."""
        longest, size = self.wanted.longest, max(self.wanted.longest, default=0)
        begun = size - longest[self.open[0].clause] + self.open[0].done if self.open else 0
        return len(self.met) * size + begun


@dataclass(frozen=True)
class Matches(_State):
    """A state that matches every occurrence of every phrase, overlaps included; met clauses have no open phrases."""

    def advance(self, token: int) -> "Matches":
        """Return the state after one more token."""
        if not self.open and token not in self.wanted.starts:
            return self
        continued = [place.next() for place in self.open if place.token == token] + self.beginning(token)
        met = self.met | {place.clause for place in continued if place.complete}
        return Matches(self.wanted, met, tuple(place for place in continued if place.clause not in met))

    def allowed(self) -> set[int]:
        """Return the tokens that continue an open phrase or begin one."""
        return {place.token for place in self.open} | self.firsts()

    @property
    def progress(self) -> float:
        """The largest generated share of an open phrase, 0 if none is open."""
        return max((place.done / len(place.phrase) for place in self.open), default=0.0)
