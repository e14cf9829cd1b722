"""A suffix automaton: every substring of a growing sequence, in at most two states a token."""

from collections.abc import Sequence


class SuffixAutomaton:
    """Finds the first end of every substring of the tokens fed so far (Blumer et al. 1985).

    A state represents substrings that end at the same positions: `longest` is the length of the longest, `first` the
    index of the token at which they first end, `link` the state of their longest suffix that also ends elsewhere, and
    `after` the state that a token leads to. State 0 is the empty string.
    """

    def __init__(self) -> None:
        self.after, self.link, self.longest, self.first = [dict[int, int]()], [-1], [0], [-1]
        self.whole = self.size = 0  # the state of the whole sequence, and its length

    def feed(self, tokens: Sequence[int]) -> None:
        """Append tokens, each in amortised constant time."""
        for token in tokens:
            self._append(token)

    def repeated(self) -> int:
        """Return the state whose longest string is the longest suffix of the sequence that also ends earlier in it."""
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
        """Return the state of the longest string of `state` plus `token`, split off from longer strings if needed."""
        old, length = self.after[state][token], self.longest[state] + 1
        if self.longest[old] == length:
            return old
        split = self._state(dict(self.after[old]), self.link[old], length, self.first[old])
        self.link[old] = split
        while state != -1 and self.after[state].get(token) == old:
            self.after[state][token] = split
            state = self.link[state]
        return split

    def _state(self, after: dict[int, int], link: int, longest: int, first: int) -> int:
        self.after.append(after)
        self.link.append(link)
        self.longest.append(longest)
        self.first.append(first)
        return len(self.link) - 1


class Cursor:
    """The longest suffix of a sequence that occurs in an automaton; the automaton is not changed.

    `state` is the automaton's state of that suffix, `length` its length, and `size` that of the sequence so far.
    """

    def __init__(self, known: SuffixAutomaton) -> None:
        self.known, self.state, self.length, self.size = known, 0, 0, 0

    def follow(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence, each in amortised constant time."""
        known = self.known
        for token in tokens:
            while self.state and token not in known.after[self.state]:
                self.state = known.link[self.state]
                self.length = known.longest[self.state]
            if token in known.after[self.state]:
                self.state, self.length = known.after[self.state][token], self.length + 1
        self.size += len(tokens)
