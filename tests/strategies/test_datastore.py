"""Datastores of kNN-LM: their keys, their neighbours, and how they are created, saved and refused."""

import json
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import Unsupported, UserError
from strategies.drafters import texts
from strategies.parts.keys import NAME, WATCH, Passage, keys, passages
from strategies.parts.neighbours import Cells, Floats, Ids, indexed, load
from strategies.tools import knn_datastore
from strategies.tools.knn_datastore import Datastore, fits, made, named
from tests.decode import engine
from tests.models import ARCHS, tiny_model
from tests.scale import scaled

NOTHING = Passage([3, 4])


@cache
def target(arch: str = "llama", seed: int = 0) -> Engine:
    return engine(tiny_model(arch, seed=seed))


def long_texts(count: int = 6, seed: int = 5) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 97) for _ in range(rng.randrange(2, 90))] for _ in range(count)]


def by_session(arch: str, text: list[int]) -> Floats:
    """Return the keys of a sequence as in a run, token by token."""
    session, rows = Session(target(arch)), []
    for end in range(1, len(text)):
        session.follow(text[:end])
        rows.append(session.read(hook=WATCH).captured(NAME))
    session.close()
    found: Floats = torch.cat(rows).numpy()
    return found


def clustered(count: int, width: int = 32, seed: int = 0) -> tuple[Floats, Ids]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, width)) * 4
    points = centres[rng.integers(40, size=count)] + rng.normal(size=(count, width))
    return points.astype(np.float32), np.arange(count, dtype=np.int32)


def brute(keys: Floats, queries: Floats, k: int) -> tuple[Floats, Ids]:
    distances = np.square(keys[None].astype(np.float64) - queries[:, None]).sum(-1)
    order = distances.argsort(-1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, -1), order.astype(np.int32)


@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_each_position_comes_once_with_half_a_window_before_it(size: int) -> None:
    for length in range(40):
        places = list[int]()
        for piece in passages(list(range(length)), size):
            assert 2 <= len(piece.tokens) <= size
            mine = piece.tokens[piece.skipped:-1]
            assert piece.positions == len(mine) >= 1
            assert all(place in (0, *piece.tokens[max(0, size - size // 2 - 1):]) for place in mine[:1])
            places += mine
        assert places == list(range(length - 1))


@pytest.mark.parametrize("arch", ARCHS)
@torch.inference_mode()
def test_keys_are_what_a_run_will_ask_for(arch: str) -> None:
    found = [Passage(text) for text in long_texts()]
    before = target(arch).forwards
    said = list(keys(target(arch), found))
    assert target(arch).forwards == before
    assert sorted(map(id, (piece for piece, _ in said))) == sorted(map(id, found))
    for piece, rows in said:
        assert np.allclose(rows, by_session(arch, list(piece.tokens)), atol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "opt"])
def test_long_texts_are_read_in_windows(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_datastore, "WINDOW", 16)
    text = [5 + i % 90 for i in range(50)]
    store = made(target(arch), [text])
    assert sorted(store.values.tolist()) == sorted(text[1:])
    for value in text[1:]:
        end = text.index(value) - 1
        start = 0 if end < 15 else (end - 7) // 8 * 8  # the window in which this place is no context
        with torch.inference_mode():
            expected = by_session(arch, text[start:end + 2])[-1]
        assert np.allclose(store.keys[store.values.tolist().index(value)], expected, atol=1e-4)


def test_faiss_says_what_brute_force_says() -> None:
    points, values = clustered(700)
    store = Datastore(points, values, 700, NOTHING)
    queries = clustered(19, seed=1)[0]
    for k in (1, 5, 700):
        distances, found = store.nearest(queries, k)
        expected, order = brute(points, queries, k)
        assert np.allclose(distances, expected, rtol=1e-5)
        assert np.array_equal(found, order) or k == 700
    assert [part.shape for part in store.nearest(queries, 5000)] == [(19, 700)] * 2
    distances, found = store.nearest(points[[7, 3]], 2)
    assert found[:, 0].tolist() == [7, 3]
    assert (distances[:, 0] == 0).all()
    assert (distances[:, 1] > 0).all()


def test_cells_find_most_of_the_nearest() -> None:
    points, values = clustered(scaled(2000, 4000))
    store = Datastore(points, values, len(points), NOTHING, indexed(points, Cells(32, 16)))
    queries = clustered(50, seed=1)[0]
    expected = brute(points, queries, 10)[1]

    def recall(probes: int) -> float:
        found = store.nearest(queries, 10, probes)[1]
        return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), expected.tolist(), strict=True)]))
    assert recall(32) > 0.7
    assert recall(1) <= recall(4) <= recall(32)
    distances, found = store.nearest(queries, 10, 32)
    assert np.allclose(distances, np.square(points[found] - queries[:, None]).sum(-1), rtol=1e-5)
    rough, same = store.nearest(queries, 10, 32, exact=False)
    assert np.array_equal(found, same)
    assert not np.allclose(rough, distances, rtol=1e-3)
    assert np.corrcoef(rough.ravel(), distances.ravel())[0, 1] > 0.9


def test_what_is_not_found_is_infinitely_far() -> None:
    points, values = clustered(600)
    store = Datastore(points, values, 600, NOTHING, indexed(points, Cells(64, 16)))
    for exact in (True, False):
        distances, _ = store.nearest(points[:20], 600, 1, exact)
        assert (np.isinf(distances).sum(-1) > 300).all()
        assert np.isfinite(distances[:, 0]).all()


def test_the_codes_divide_the_width() -> None:
    points = clustered(300, 30)[0]
    assert indexed(points, Cells(4, 16)).pq.M == 15
    with pytest.raises(UserError, match="4096 cells need at least 4096 keys, and the texts give 300"):
        indexed(points, Cells())


def test_faiss_takes_no_more_threads_than_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    points, values = clustered(300)
    store = Datastore(points, values, 300, NOTHING)
    threads = list[int]()  # not set in truth: torch may share the OpenMP of faiss, and the next tests with it
    monkeypatch.setattr(faiss, "omp_set_num_threads", threads.append)
    store.nearest(points[:1], 1)
    assert threads == [torch.get_num_threads()]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("cells", [None, Cells(16, 4)])
def test_a_store_comes_back_as_it_was_saved(tmp_path: Path, half: bool, cells: Cells | None) -> None:
    store = made(target(), long_texts(12), tmp_path / "a", cells, 0, half)
    assert store.keys.dtype == (np.float16 if half else np.float32)
    store.save(tmp_path / "b")
    loaded = load(tmp_path / "a")
    loaded.save(tmp_path / "c")
    loaded.save(tmp_path / "a")  # over itself
    queries = np.asarray(store.keys[::20], np.float32)
    for each in (loaded, load(tmp_path / "b"), load(tmp_path / "c")):
        assert (each.vocab, each.start) == (97, store.start)
        assert type(each.index) is type(store.index)
        assert np.array_equal(each.keys, store.keys)
        assert all(np.array_equal(a, b) for a, b in
                   zip(each.nearest(queries, 9), store.nearest(queries, 9), strict=True))
        assert fits(each, target())


def test_values_are_not_cut_to_16_bits(tmp_path: Path) -> None:
    points, _ = clustered(3)
    Datastore(points, np.array([70_000, 40_000, 5], np.int32), 100_000, NOTHING).save(tmp_path)
    assert load(tmp_path).nearest(points, 1)[1].ravel().tolist() == [70_000, 40_000, 5]


def test_a_store_of_another_model_is_refused(tmp_path: Path) -> None:
    made(target(), long_texts(), tmp_path / "store")
    assert named(str(tmp_path / "store"), "knn_lm", target()) is named(str(tmp_path / "store"), "knn_lm", target())
    small = engine(tiny_model("llama", vocab=50))
    for name, other in ((str(tmp_path / "store"), target("llama", 1)), (str(tmp_path / "store"), target("gpt2")),
                        (str(tmp_path / "store"), small), ("nano", target())):
        with pytest.raises(Unsupported, match=r"python -m strategies.tools.knn_datastore .* give knn_lm:store=FOLDER"):
            named(name, "knn_lm", other)
    torch.manual_seed(0)
    near = engine(tiny_model("llama").to(torch.bfloat16))
    assert fits(load(tmp_path / "store"), near)


@pytest.mark.parametrize("name", ["about.json", "keys.npy", "values.npy", "index.faiss"])
def test_a_broken_store_is_one_sentence(tmp_path: Path, name: str) -> None:
    made(target(), long_texts(12), tmp_path, Cells(16, 4), 0)
    (tmp_path / name).write_bytes(b"no")
    hint = f"{tmp_path} is not a datastore of knn_lm; create one with python -m .* {tmp_path}"
    with pytest.raises(UserError, match=hint):
        load(tmp_path)
    with pytest.raises(UserError, match="is not a datastore of knn_lm"):
        load(tmp_path / "missing")


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    from harness.models.loading import load as load_model

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(knn_datastore, "OF_A_KIND", 1)
    return load_model("nano-draft").engine


def test_the_embedded_store_is_made_once(nano: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = named("nano", "knn_lm", nano)
    assert store is named("nano", "knn_lm", nano)
    (folder,) = (tmp_path / "cache" / "decodebench").iterdir()
    assert {file.name for file in folder.iterdir()} == {"about.json", "keys.npy", "values.npy"}
    monkeypatch.setattr(knn_datastore, "made", None)
    assert np.array_equal(knn_datastore.embedded(nano).keys, store.keys)


def test_without_a_cache_folder_it_is_made_each_time(nano: Engine, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder should")
    assert len(named("nano", "knn_lm", nano).values) > 100


def command(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["datastore", "--model", "nano-draft", *map(str, options)])
    knn_datastore.main()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    rows = [{"question": "Sam has 2 apples?", "answer": "No.", "n": 3}, {"question": "And Tom?", "answer": "5"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert texts.given(tmp_path / "train.jsonl") == ["Sam has 2 apples?\nNo.", "And Tom?\n5"]
    command(monkeypatch, "--texts", tmp_path / "train.jsonl", "--out", tmp_path / "a")
    assert capsys.readouterr().out.endswith(" numbers from 2 texts, FlatL2\n")
    assert load(tmp_path / "a").vocab == 2048
    command(monkeypatch, "--kinds", "chat", "edit", "--count", 9, "--index", "ivfpq", "--cells", 8, "--codes", 4,
            "--half", "--out", tmp_path / "b")
    assert capsys.readouterr().out.endswith(" numbers from 18 texts, IVFPQ\n")
    assert load(tmp_path / "b").keys.dtype == np.float16


def test_wrong_options_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("\n")
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "bad.jsonl").write_text("{")
    for options, said in ((["--texts", tmp_path / "empty"], "contains no text"),
                          (["--texts", tmp_path / "bad.jsonl"], "line 1: this is not JSON"),
                          (["--kinds", "chat", "--count", "1", "--index", "ivfpq"], "4096 cells need at least"),
                          (["--count", "0"], "--count must be at least 1, not 0"),
                          (["--texts", tmp_path / "one.txt"], "no text has two")):
        with pytest.raises(UserError, match=said):
            command(monkeypatch, *options, "--out", tmp_path / "out")
    with pytest.raises(UserError, match=r"short\.txt.*: "):
        command(monkeypatch, "--kinds", "chat", "--count", "1", "--out", tmp_path / "short.txt" / "out")


def test_a_chain_of_nodes_is_watched_as_a_text_is() -> None:
    text = long_texts()[0]
    with torch.inference_mode():
        session = Session(target())
        session.follow(text[:1])
        rows = session.read(TokenTree.chain(text[1:-1]), WATCH).captured(NAME).numpy()
        assert np.allclose(rows, by_session("llama", text), atol=1e-4)
    session.close()
