"""The training of a drafter that fills masks behind an encoder."""

from array import array
from pathlib import Path

import pytest
import torch

from harness.laboratory import gad, seq2seq
from harness.laboratory.pairs import IGNORED, Pair, pair_batch
from harness.models.loading import load
from harness.run.runner import run
from harness.store.config import RunConfig
from tests.watch import Quiet

MASK, START = 99, 0


def batch() -> gad.PairBatch:
    return pair_batch([Pair(array("H", [5, 6]), array("H", [*range(10, 40), START])),
                       Pair(array("H", [7]), array("H", [50, 51, START]))], START)


def test_masks_stand_behind_a_beginning_and_wait_for_the_tokens_of_the_target() -> None:
    found, starts = batch(), set[int]()
    for seed in range(60):
        filled = gad.begun(found, MASK, torch.Generator().manual_seed(seed))
        for row, size in enumerate((31, 3)):
            masked = (filled.given[row] == MASK).nonzero()[:, 0].tolist()
            first = masked[0]
            starts.add(first) if row else None
            assert masked == list(range(first, first + gad.MASKS))
            assert filled.given[row, :first].tolist() == [START, *found.labels[row, :first - 1].tolist()]
            assert filled.real[row].tolist() == [place < first + gad.MASKS for place in range(filled.real.shape[1])]
            last = min(size, first + gad.MASKS - 1)
            wanted = [found.labels[row, place - 1].item() if first <= place <= last else IGNORED
                      for place in range(filled.labels.shape[1])]
            assert filled.labels[row].tolist() == wanted
    assert starts == {1, 2, 3}


def test_glancing_shows_as_many_tokens_as_a_share_of_the_wrong_ones() -> None:
    chances = torch.Generator().manual_seed(0)
    filled = gad.begun(batch(), MASK, chances)
    counted = filled.labels != IGNORED
    wrong = filled.labels.clone()
    wrong[0, counted[0].nonzero()[:8, 0]] += 1  # eight are wrong in the first row, none in the second
    seen = gad.glanced(filled, wrong, 0.5, MASK, chances)
    shown = counted & (seen.labels == IGNORED)
    assert shown.sum(1).tolist() == [4, 0]
    assert torch.equal(seen.given[shown], filled.labels[shown])
    assert torch.equal(seen.given[~shown], filled.given[~shown])


def test_the_drafter_is_a_model_that_fills_masks_and_drafts_for_nano_seq2seq(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gad, "COUNTS", {"edit": 30, "record": 30})
    for name, value in {"HELD_OUT": 4, "TOKENS": 512}.items():
        monkeypatch.setattr(seq2seq, name, value)
    gad.main(["--out", str(tmp_path / "drafter"), "--steps", "2", "--answers", "60"])
    drafter = load(str(tmp_path / "drafter"))
    assert drafter.engine.offers == {"canvas", "source"}
    config = RunConfig(model="nano-seq2seq", draft=str(tmp_path / "drafter"), strategies=("gad:gamma=8", "gad:beta=3"),
                       tasks=("nano_edit",), limit=2, output=str(tmp_path / "run"), device="cpu")
    watcher = Quiet()
    run(config, watcher, "test")
    first = watcher.records[0].example
    answers = {one.strategy: one.turns[0].tokens for one in watcher.records if one.example == first}
    assert len(watcher.records) == 6
    [exact] = [tokens for name, tokens in answers.items() if name.startswith("gad") and "beta=1" in name]
    assert exact == answers["greedy"]
