"""The best sets of MLPs for each token: brute force over sets, order of the columns, and what a wrong input says."""

from itertools import combinations
from pathlib import Path
from random import Random

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.hooks import Skip
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.study import Setting
from harness.store.config import RunConfig
from strategies.ffn_skip import SkipAlike
from studies.oracle_gap import OracleGap, Texts, sets_of
from tests.self_drafting import PROMPTS, deep, greedy

LAYERS, COUNT = 4, 3


def small() -> Engine:
    return deep(layers=LAYERS)


def texts() -> list[list[int]]:
    """Texts of different lengths, whose last tokens are those of the model's answers."""
    return [[*prompt, *greedy(prompt, 4 + number, small())] for number, prompt in enumerate(PROMPTS[:2])]


def setting(path: Path) -> Setting:
    return Setting(RunConfig(model="tiny"), path, lambda text: None)


@torch.inference_mode()
def by_hand(text: list[int], place: int, left_out: frozenset[int]) -> float:
    """The loss of the token behind `place`, whose own token alone is computed without these MLPs."""
    session = Session(small())
    session.follow(text[:place])
    session.read()
    logits = session.read(TokenTree.chain([text[place]]), Skip(mlp=left_out)).logits[1]
    session.close()
    return -float(logits.log_softmax(-1)[text[place + 1]])


def test_every_number_is_that_of_brute_force(tmp_path: Path) -> None:
    found = OracleGap(tokens=COUNT, draws=500).measured(small(), texts(), setting(tmp_path))
    assert found["MLPs"].tolist() == [1, 2, 3, 4]
    for row in found.to_dict("records"):
        sets = [frozenset(one) for one in combinations(range(1, LAYERS), LAYERS - int(row["MLPs"]))]
        losses = torch.tensor([[[by_hand(text, len(text) - 1 - COUNT + i, one) for i in range(COUNT)]
                                for text in texts()] for one in sets])
        lowest = sets.index(frozenset(range(int(row["MLPs"]), LAYERS)))
        wanted = {"oracle": losses.amin(0).mean(), "random": losses.mean(), "lowest": losses[lowest].mean(),
                  "best": losses.mean(-1).amin(0).mean()}
        assert {name: row[name] for name in wanted} == pytest.approx({k: float(v) for k, v in wanted.items()}, abs=1e-4)
    last = found.iloc[-1]
    assert last[["random", "best", "lowest", "ffn_skip"]].tolist() == pytest.approx([last["oracle"]] * 4, abs=1e-6)
    assert small().open_rows == 0


def test_no_rule_is_better_than_the_oracle_of_its_size(tmp_path: Path) -> None:
    found = OracleGap(tokens=COUNT, threshold=-1.0).measured(small(), texts(), setting(tmp_path))
    assert (found["oracle"] <= found[["best", "random", "lowest"]].min(axis=1) + 1e-6).all()
    kept = found[found["runs"] == found["MLPs"]]
    assert len(kept) >= 2
    assert (kept["oracle"] <= kept["ffn_skip"] + 1e-6).all()
    assert kept["gap"].dropna().ge(-1e-6).all()


def test_choices_of_a_rule_count_what_they_left_out() -> None:
    """At a cosine of -1, all tokens leave out as many as they may."""
    ends = Texts(small(), texts(), COUNT)
    plain, none = ends.losses(Skip())
    assert none == 0
    losses, left_out = ends.losses(SkipAlike(-1.0, 0.5, 0.25))
    for session in ends.sessions:
        session.close()
    assert left_out == 1, "of the two layers between the ends, the first watches"
    assert losses.shape == (2, COUNT)
    assert not torch.equal(losses, plain)


def test_many_layers_have_drawn_sets() -> None:
    rng = Random(0)
    assert len(sets_of(10, 6, 256, rng)) == 126
    found = sets_of(30, 20, 64, rng)
    assert len(found) == 64
    assert found[0] == frozenset(range(20, 30))
    assert {len(one) for one in found} == {10}
    assert not frozenset().union(*found) & {0}


def test_texts_are_asked_for() -> None:
    model, study = Model("tiny", small(), None, frozenset(), ""), OracleGap()
    with pytest.raises(UserError, match="Which texts should 'tiny' read"):
        study.chosen(model, setting(Path()))
