"""Lexical constraints as token ids, and immutable states of a sequence's progress.

`Constraints` is a conjunction of clauses, each that needs one of its phrases, and phrases that must not occur. Two
states follow a text token by token. `Progress` counts every token once: phrases do not overlap, and a clause that is
given twice wants its phrase twice (grid beam search, dynamic beam allocation). `Matches` sees every place where a
phrase occurs, overlaps included, and a clause that is given twice is met at once (NeuroLogic).
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
            raise ValueError("a clause wants at least one phrase, and a phrase at least one token")
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
        found: dict[int, list[Place]] = {}
        for number, clause in enumerate(self.clauses):
            for phrase in clause:
                found.setdefault(phrase[0], []).append(Place(number, phrase))
        return found

    def avoided(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that would complete a banned phrase after `tokens`, the new ones of a text."""
        return [phrase[-1] for phrase in self.banned
                if tuple(tokens[len(tokens) - len(phrase) + 1:]) == phrase[:-1] and len(tokens) >= len(phrase) - 1]


def clause(phrases: Sequence[str], tokens: Callable[[str], list[int]]) -> Clause:
    """Return the clause that needs one of these words or phrases, in any of their forms."""
    return tuple(dict.fromkeys(form for phrase in phrases for form in forms(phrase, tokens)))


def forms(phrase: str, tokens: Callable[[str], list[int]]) -> list[Phrase]:
    """Return the token ids of a word or phrase after a space, as given and capitalised.

    A word that begins an answer without a blank before it, or that is spelled in other tokens, is not recognised.
    """
    text = phrase.strip()
    return [tuple(tokens(f" {one}")) for one in dict.fromkeys((text, text[:1].upper() + text[1:]))]


@dataclass(frozen=True)
class Place:
    """The number of tokens of a clause's phrase that have been generated."""

    clause: int
    phrase: Phrase
    done: int = 0

    def next(self) -> "Place":
        """One token further."""
        return replace(self, done=self.done + 1)

    @property
    def token(self) -> int:
        """Return the next token of the phrase."""
        return self.phrase[self.done]

    @property
    def whole(self) -> bool:
        """Whether all of the phrase has been written."""
        return self.done == len(self.phrase)


@dataclass(frozen=True)
class _State:
    """The clauses that are met, and the phrases that are begun but not complete (open)."""

    wanted: Constraints
    met: frozenset[int] = frozenset()
    open: tuple[Place, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every clause is met."""
        return len(self.met) == len(self.wanted.clauses)

    def beginning(self, token: int) -> list[Place]:
        """The phrases of unmet clauses that begin with `token`, one token into them."""
        return [place.next() for place in self.wanted.starts.get(token, ()) if place.clause not in self.met]

    def unmet(self) -> list[Clause]:
        """The clauses that are not met."""
        return [clause for number, clause in enumerate(self.wanted.clauses) if number not in self.met]

    def firsts(self) -> set[int]:
        """The tokens that begin a phrase of an unmet clause."""
        return {phrase[0] for clause in self.unmet() for phrase in clause}


@dataclass(frozen=True)
class Progress(_State):
    """One phrase at a time (several while they share their tokens so far); every token counts once.

    The rules are those of sockeye 1: a token that does not go on with an open phrase undoes it, and is itself not
    taken for the start of another; a token that is a whole phrase meets the first unmet clause that wants it.
    """

    def advance(self, token: int) -> "Progress":
        """The state after one more token."""
        if not self.open and token not in self.wanted.starts:
            return self
        going = [place.next() for place in self.open if place.token == token] if self.open else self.beginning(token)
        if whole := next((place for place in going if place.whole), None):
            return replace(self, met=self.met | {whole.clause}, open=())
        return replace(self, open=tuple(going))

    def allowed(self) -> set[int]:
        """The tokens that go on with the open phrase or, where none is, begin one."""
        return {place.token for place in self.open} or self.firsts()

    @property
    def count(self) -> int:
        """How many wanted tokens the text has, a phrase that is longer than its clause's shortest not counting more."""
        sizes = self.wanted.sizes
        begun = max((min(place.done, sizes[place.clause] - 1) for place in self.open), default=0)
        return sum(sizes[number] for number in self.met) + begun

    @property
    def left(self) -> int:
        """The fewest tokens that would meet all clauses."""
        sizes = self.wanted.sizes
        unmet = sum(size for number, size in enumerate(sizes) if number not in self.met)
        return unmet + min((len(one.phrase) - one.done - sizes[one.clause] for one in self.open), default=0)


@dataclass(frozen=True)
class Grid(Progress):
    """A state of grid beam search: inside a phrase only its next token is possible, outside it free text is.

    `free` holds the newest tokens that count for no phrase; None where free text never counts.
    """

    free: tuple[int, ...] | None = None

    def forced(self) -> "list[tuple[int, Grid]]":
        """The next token of the open phrase or the first token of any unmet one, each with the state after it."""
        places = self.open or [Place(number, phrase) for number, clause in enumerate(self.wanted.clauses)
                               if number not in self.met for phrase in clause]
        after = None if self.free is None else ()
        found = []
        for place in places:
            step = place.next()
            state = replace(self, met=self.met | {step.clause}, open=(), free=after) if step.whole else \
                replace(self, open=(step,), free=after)
            found.append((place.token, state))
        return found

    def wrote(self, token: int) -> "Grid":
        """The state after a token of free text; where it counts, it meets a clause whose phrase it happens to end."""
        if self.free is None:
            return self
        text = (*self.free, token)
        for number, clause in enumerate(self.wanted.clauses):
            if number not in self.met and any(text[-len(phrase):] == phrase for phrase in clause):
                return replace(self, met=self.met | {number}, free=())
        return replace(self, free=text[-max(len(phrase) for one in self.wanted.clauses for phrase in one):])


@dataclass(frozen=True)
class Turns(Progress):
    """One clause at a time: a token begins the first one that waits for it; one that is undone waits behind the others.

    Of alternatives where one begins another, the shorter one meets the clause. `waiting` are the clauses that are
    neither met nor open, None before the first token.
    """

    waiting: tuple[int, ...] | None = None

    def advance(self, token: int) -> "Turns":
        """The state after one more token."""
        if not self.open and token not in self.wanted.starts:
            return self
        clauses = self.wanted.clauses
        waiting = tuple(range(len(clauses))) if self.waiting is None else self.waiting
        if self.open:
            number = self.open[0].clause
            going = [place.next() for place in self.open if place.token == token]
        else:
            number = next((one for one in waiting if any(phrase[0] == token for phrase in clauses[one])), -1)
            going = [place for place in self.beginning(token) if place.clause == number]
            waiting = tuple(one for one in waiting if one != number)
        if any(place.whole for place in going):
            return replace(self, met=self.met | {number}, open=(), waiting=waiting)
        if self.open and not going:
            waiting += (number,)
        return replace(self, open=tuple(going), waiting=waiting)

    @property
    def count(self) -> int:
        """The tokens written for clauses, all of which count as long as the longest phrase of any, met at the end."""
        longest, size = self.wanted.longest, max(self.wanted.longest, default=0)
        begun = size - longest[self.open[0].clause] + self.open[0].done if self.open else 0
        return len(self.met) * size + begun


@dataclass(frozen=True)
class Matches(_State):
    """Every occurrence of every phrase, so that phrases may overlap; a clause that is met leaves no open phrases."""

    def advance(self, token: int) -> "Matches":
        """The state after one more token."""
        if not self.open and token not in self.wanted.starts:
            return self
        going = [place.next() for place in self.open if place.token == token] + self.beginning(token)
        met = self.met | {place.clause for place in going if place.whole}
        return Matches(self.wanted, met, tuple(place for place in going if place.clause not in met))

    def allowed(self) -> set[int]:
        """The tokens that go on with an open phrase or begin one."""
        return {place.token for place in self.open} | self.firsts()

    @property
    def progress(self) -> float:
        """The largest written share of an open phrase, 0 where none is open."""
        return max((place.done / len(place.phrase) for place in self.open), default=0.0)
