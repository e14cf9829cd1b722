"""Codes of states: k-means by hand, precision of codes, and what moving a state to a code changes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.hooks import Watch, changed
from harness.errors import Unsupported, UserError
from strategies.clamp import Clamp
from strategies.greedy import Greedy
from strategies.parts.codes import Codebook, codebook, fitted, moved, nearest
from strategies.parts.steering import read
from strategies.tools import codebook as tool
from strategies.top_p import TopP
from tests.decode import decode, engine
from tests.models import HIDDEN, prompts, tiny_model

ARCHS = ("llama", "gpt2", "opt")
TEXT = prompts(1, 97, 8)[0] * 2


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=3))


@cache
def book(arch: str = "llama", count: int = 4) -> Codebook:
    """Codes of the states after the second layer, of two kinds of texts."""
    kinds = {"one": prompts(6, 97, 1), "two": prompts(6, 97, 2)}
    return codebook("hidden:2", {kind: tool.states(target(arch), texts, "hidden:2") for kind, texts in kinds.items()},
                    count)


def file(tmp_path: Path, content: Codebook) -> str:
    path = tmp_path / "codes.json"
    path.write_text(content.model_dump_json())
    return str(path)


@torch.inference_mode()
def between(arch: str, changes: dict[str, Any]) -> dict[str, Tensor]:
    parts = target(arch).parts
    with changed(parts, changes), Watch(tuple(f"hidden:{i}" for i in range(4))).applied_to(parts) as seen:
        logits = parts.model(torch.tensor([TEXT])).logits
    return {**seen, "logits": logits}


def test_clusters_that_lie_apart_are_found_and_their_means_are_the_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])
    points = centres.repeat_interleave(20, 0) + torch.randn(60, 2, generator=generator)
    wanted = points.view(3, 20, 2).mean(1)
    for seed in range(5):
        found = fitted(points, 3, seed)
        order = torch.cdist(wanted, found).argmin(1)
        assert sorted(order.tolist()) == [0, 1, 2]
        torch.testing.assert_close(found[order], wanted, rtol=1e-5, atol=1e-5)


def test_fitting_ends_where_each_code_is_the_mean_of_the_states_nearest_to_it() -> None:
    points = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    codes = fitted(points, 7)
    by_hand = torch.tensor([min(range(7), key=lambda k: float((point - codes[k]).square().sum())) for point in points])
    assert nearest(points, codes).equal(by_hand)
    for code in range(7):
        torch.testing.assert_close(points[by_hand == code].mean(0), codes[code], rtol=1e-4, atol=1e-5)


def test_more_codes_than_different_states_are_refused() -> None:
    with pytest.raises(UserError, match="only 2 different states"):
        fitted(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]), 3)


def test_the_precision_of_a_code_is_the_share_of_its_states_that_are_of_the_kind() -> None:
    given = Codebook(site="hidden:1", codes=((0.0,),) * 4,
                     counts={"story": (19, 40, 1, 0), "math": (1, 2, 3, 0)})
    assert given.precision("story") == [0.95, 40 / 42, 0.25, 0.0]
    assert given.precision("math") == [0.05, 2 / 42, 0.75, 0.0]
    assert given.best("story") == 1, "both are precise enough, and this one is more frequent"
    assert given.best("math") == 2


def test_every_state_of_the_texts_is_counted_under_its_kind() -> None:
    for kind, seed in (("one", 1), ("two", 2)):
        assert sum(book().counts[kind]) == sum(len(text) - 1 for text in prompts(6, 97, seed))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_state_moves_by_the_difference_of_two_codes_and_nothing_changes_before_it(arch: str, alpha: float) -> None:
    plain, found = between(arch, {}), between(arch, moved(book(arch), 2, alpha, target(arch)))
    for name in ("hidden:0", "hidden:1"):
        assert torch.equal(found[name], plain[name])
    codes, other = torch.tensor(book(arch).codes), 0
    for state, after in zip(plain["hidden:2"][0], found["hidden:2"][0], strict=True):
        now = int((state - codes).norm(dim=-1).argmin())
        torch.testing.assert_close(after, state + alpha * (codes[2] - codes[now]), rtol=1e-4, atol=1e-4)
        assert now != 2 or torch.equal(after, state), "a state of the code stays as it is"
        other += now != 2
    assert other
    assert not torch.allclose(found["logits"], plain["logits"])


def test_a_state_that_moves_all_the_way_has_the_new_code() -> None:
    """Where clusters lie apart: the state keeps its place within the cluster."""
    codes = torch.tensor([[0.0] * HIDDEN, [50.0] * HIDDEN])
    given = Codebook(site="hidden:1", codes=tuple(map(tuple, codes.tolist())), counts={"all": (1, 1)})
    change = moved(given, 1, 1.0, target())["hidden:1"]
    some = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(change(some), codes), torch.ones(2, 5, dtype=torch.long))
    torch.testing.assert_close(change(some), some + 50)


@pytest.mark.parametrize("since", ["prompt", "answer"])
def test_codes_that_change_nothing_are_top_p(since: str, tmp_path: Path) -> None:
    same = Codebook(site="hidden:2", codes=book().codes[:1] * 3, counts={"one": (3, 0, 0)})
    differ = 0
    for prompt in prompts(3, 97, 6):
        for content, code, alpha in ((book(), 2, 0.0), (same, 1, 1.0)):
            method = Clamp(file=file(tmp_path, content), mode="code", since=since, code=code, alpha=alpha)
            read.cache_clear()
            assert decode(method, target(), prompt) == decode(Greedy(), target(), prompt)
        read.cache_clear()
        method = Clamp(file=file(tmp_path, book()), mode="code", code=2, alpha=0.0, temperature=1.0, p=0.8)
        assert decode(method, target(), prompt) == decode(TopP(p=0.8), target(), prompt)
        moves = Clamp(file=file(tmp_path, book()), mode="code", code=2, alpha=3.0, since=since)
        differ += decode(moves, target(), prompt) != decode(Greedy(), target(), prompt)
    assert differ


@pytest.mark.parametrize(("knobs", "error", "words"), [
    ({"mode": "code"}, UserError, "one of the 4 codes"), ({"mode": "code", "code": 4}, UserError, "one of the 4 codes"),
    ({"mode": "add"}, UserError, "takes mode=code")])
def test_a_code_that_does_not_exist_and_another_mode_are_refused(knobs: dict[str, Any], error: type[Exception],
                                                                 words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        decode(Clamp(file=file(tmp_path, book()), **knobs), target(), TEXT)


def test_codes_of_another_model_and_edits_for_codes_are_refused(tmp_path: Path) -> None:
    other = Codebook(site="hidden:2", codes=((1.0, 2.0),), counts={"one": (1,)})
    with pytest.raises(Unsupported, match="have 2 numbers"):
        decode(Clamp(file=file(tmp_path, other), mode="code", code=0), target(), TEXT)
    edits = tmp_path / "edits.json"
    edits.write_text(json.dumps([{"site": "hidden:2", "vector": [1.0] * HIDDEN}]))
    with pytest.raises(UserError, match="takes a file of codes"):
        Clamp(file=str(edits), mode="code", code=0)


def test_the_tool_writes_what_clamp_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    """On texts of the user's own, each file a kind."""
    for name, text in (("prose", "Once upon a time there was a small dog."), ("sums", "2 + 2 = 4, and 4 + 4 = 8.")):
        (tmp_path / f"{name}.txt").write_text(text)
    out = tmp_path / "codes.json"
    texts = [str(tmp_path / "prose.txt"), str(tmp_path / "sums.txt")]
    monkeypatch.setattr("sys.argv", ["codebook", "--layer", "3", "--codes", "5", "--out", str(out), "--texts", *texts])
    tool.main()
    found = read(out)
    assert isinstance(found, Codebook)
    assert (found.site, len(found.codes), set(found.counts)) == ("hidden:3", 5, {"prose", "sums"})
    assert "prose: " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["codebook", "--layer", "99", "--out", str(out), "--texts", *texts])
    with pytest.raises(UserError, match="no layer 99; give one of 1 to 10"):
        tool.main()
