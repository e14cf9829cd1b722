"""Drafts from a datastore of other texts: its trie, its matches, its files, and how a missing one is refused."""

from collections import Counter
from pathlib import Path

import pytest

from harness.engine.tree import TokenTree
from harness.errors import Unsupported, UserError
from strategies.drafters import store
from strategies.drafters.store import Store
from strategies.drafters.trie import trie
from strategies.greedy import Greedy
from strategies.rest import Rest, Retrieval, frequent
from strategies.tools import rest_datastore
from tests.decode import decode
from tests.draft_tables import PROMPTS, target, texts, work


def test_trie_shares_starts_and_keeps_to_its_budget() -> None:
    paths = [[1, 2, 3], [1, 2, 4], [5], [1, 2, 3, 6]]
    assert trie(paths, 9, 9) == TokenTree((1, 2, 3, 4, 5, 6), (-1, 0, 1, 1, -1, 2))
    assert trie(paths, 4, 9) == TokenTree((1, 2, 3, 4), (-1, 0, 1, 1))
    assert trie(paths, 9, 2) == TokenTree((1, 2, 5), (-1, 0, -1))
    assert trie([], 9, 9) == TokenTree()


def test_store_returns_every_match_in_order() -> None:
    written = texts(12)
    known, flat = Store.of(written, 4), [token for text in written for token in [*text, store.END]]
    for tail in ([0], [1, 0], [0, 1, 1], [3, 3], [9], [2, 1, 2, 1, 0, 0]):
        places = known.positions(tail).tolist()
        assert sorted(places) == [i + len(tail) for i in range(len(flat)) if flat[i:i + len(tail)] == tail]
        assert (after := [flat[place:place + 16] for place in places]) == sorted(after)


def test_store_counts_what_follows() -> None:
    known = Store.of([[1, 2, 3], [1, 2, 4], [7, 1, 2, 3, 5]], 8)
    rows = known.following(known.positions([1]), 3)
    assert sorted(rows.tolist()) == [[2, 3, -1], [2, 3, 5], [2, 4, -1]]
    assert frequent(rows, 3) == [[2], [2, 3], [2, 4]]
    for text in texts(8):
        known = Store.of([text], 4)
        rows = known.following(known.positions([1]), 4)
        starts = [tuple(row[:size]) for row in rows.tolist() for size in range(1, 5)]
        counts = Counter(start for start in starts if store.END not in start)
        best = frequent(rows, 9)
        assert [counts[tuple(start)] for start in best] == sorted(counts.values(), reverse=True)[:9]
        assert len(trie(best, 9, 9)) == len(best)


def test_rest_takes_the_longest_end() -> None:
    known = Store.of([[1, 2, 3], [9, 2, 4], [9, 2, 4], [1, 1, 9, 2, 5, 6]], 97)
    for text, places in (([1, 9, 2], [5]), ([9, 2], [4, 4, 5]), ([7, 1, 2], [3]), ([7, 2], []), ([2], [])):
        found = Retrieval(known, Rest()).longest(text)
        assert known.tokens[found].tolist() == places


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rest_from_a_file(tmp_path: Path, temperature: float) -> None:
    Store.of([[*prompt, *work(Greedy(), prompt)[1]] for prompt in PROMPTS[::2]], 97).save(tmp_path / "a.npz")
    strategy = Rest(store=str(tmp_path / "a.npz"), temperature=temperature)
    forwards = [work(strategy, prompt, 20)[0].forwards for prompt in PROMPTS]
    assert [work(strategy, prompt, 20)[0].forwards for prompt in PROMPTS[::-1]][::-1] == forwards
    if not temperature:
        assert forwards[0] < 6
        assert all(decode(strategy, target(), prompt) == decode(Greedy(), target(), prompt) for prompt in PROMPTS)


def test_rest_says_how_to_make_a_store(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"made with python -m strategies\.tools\.rest_datastore"):
        decode(Rest(), target(), PROMPTS[0])
    (tmp_path / "b.npz").write_text("no")
    with pytest.raises(UserError, match="is not a datastore"):
        decode(Rest(store=str(tmp_path / "b.npz")), target(), PROMPTS[0])


def test_store_of_own_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_text("Once upon a time there was a cat.")
    monkeypatch.setattr("sys.argv", ["store", "--texts", str(tmp_path / "words.txt"), "--out", str(tmp_path / "c.npz")])
    rest_datastore.main()
    known = store.load(tmp_path / "c.npz")
    assert (known.vocab, known.tokens[-1]) == (2048, store.END)
    assert len(known.tokens) < 20


@pytest.mark.parametrize(("given", "said"), [
    (["--model", "nosuch"], "There is no model"), (["--texts", "missing"], "missing: No such file"),
    (["--texts", "empty"], "contains no text")])
def test_a_store_of_nothing_is_refused_in_one_sentence(given: list[str], said: str, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    monkeypatch.setattr("sys.argv", ["store", "--out", "out.npz", *given])
    with pytest.raises(UserError, match=said):
        rest_datastore.main()
    assert not Path("out.npz").exists()


def test_an_empty_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty.npz").touch()
    with pytest.raises(UserError, match="not a datastore"):
        store.load(tmp_path / "empty.npz")
