"""A suffix automaton: every substring of a growing text, in at most two states a token."""

from collections.abc import Sequence


class SuffixAutomaton:
    """Knows for every substring of what it was fed where it first ended (Blumer et al. 1985).

    A state stands for substrings that end at the same places: `longest` is the length of the longest one, `first` the
    index of the token at which they first end, `link` the state of their longest suffix that ends elsewhere too, and
    `after` the state that a token leads to. State 0 is the empty string.
    """

    def __init__(self) -> None:
        self.after, self.link, self.longest, self.first = [dict[int, int]()], [-1], [0], [-1]
        self.whole = self.size = 0  # the state of the whole text, and its length

    def feed(self, tokens: Sequence[int]) -> None:
        """Append tokens, each in amortised constant time."""
        for token in tokens:
            self._append(token)

    def repeated(self) -> int:
        """The state whose longest string is the longest suffix of the text that also ends earlier in it."""
        return max(self.link[self.whole], 0)

    def _append(self, token: int) -> None:
        new, state = self._state({}, 0, self.size + 1, self.size), self.whole
        while state != -1 and token not in self.after[state]:
            self.after[state][token] = new
            state = self.link[state]
        if state != -1:
            self.link[new] = self._ending(state, token)
        self.whole, self.size = new, self.size + 1

    def _ending(self, state: int, token: int) -> int:
        """The state of the longest string of `state` with `token` after it, split off when it has longer ones."""
        old, length = self.after[state][token], self.longest[state] + 1
        if self.longest[old] == length:
            return old
        part = self._state(dict(self.after[old]), self.link[old], length, self.first[old])
        self.link[old] = part
        while state != -1 and self.after[state].get(token) == old:
            self.after[state][token] = part
            state = self.link[state]
        return part

    def _state(self, after: dict[int, int], link: int, longest: int, first: int) -> int:
        self.after.append(after)
        self.link.append(link)
        self.longest.append(longest)
        self.first.append(first)
        return len(self.link) - 1


class Cursor:
    """The longest end of a text that stands in an automaton, which is only read.

    `state` is the automaton's state of that end, `length` its length, and `size` the tokens of the text so far.
    """

    def __init__(self, known: SuffixAutomaton) -> None:
        self.known, self.state, self.length, self.size = known, 0, 0, 0

    def follow(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text, each in amortised constant time."""
        known = self.known
        for token in tokens:
            while self.state and token not in known.after[self.state]:
                self.state = known.link[self.state]
                self.length = known.longest[self.state]
            if token in known.after[self.state]:
                self.state, self.length = known.after[self.state][token], self.length + 1
        self.size += len(tokens)
