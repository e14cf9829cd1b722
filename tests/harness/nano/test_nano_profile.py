"""The profile of the embedded family: figures from given samples, and that each can fail."""

from functools import cache, partial
from typing import Any

import pandas as pd
import pytest

from benchmarks.nano import DRAFTED, HEADLINES, LOOKED_UP, LOOKED_UP_SAMPLED, SAMPLED, Cells, figures, main
from harness.nano import weights
from harness.plugins.registry import STRATEGIES
from harness.store.config import RunConfig

EXAMPLES = 32
REPETITION = {"greedy": 0.6, "top_p": 0.1, "beam": 0.7, "contrastive_search": 0.1, "momentum": 0.2}
LOOKED_UP_TAU = {"edit": 4.0, "summary": 5.0}


def row(kind: str, strategy: str, number: int, sample: int = 0, **values: Any) -> dict[str, Any]:
    """A sample that solves three problems in four, more or less."""
    right = float(number % 4 != 0)
    scores = {f"score_{name}": right for name in set(HEADLINES.values())}
    return {"task": f"nano_{kind}", "strategy": STRATEGIES.build(strategy).spec(),
            "example": f"{kind}/{number}", "sample": sample, "tokens": 50, "seconds": 1.0,
            "accepted": 0, "drafted": 0, "decode_tokens": 49, "decode_steps": 49, **scores, **values}


@cache
def frames() -> dict[str, pd.DataFrame]:
    """Samples on which every figure is as wanted."""
    numbers = range(EXAMPLES)
    speed = []
    for kind in HEADLINES:
        speed += [row(kind, "greedy", n) for n in numbers]
        taken = 3 + n_even(kind)
        speed += [row(kind, DRAFTED, n, seconds=0.5 + n % 3 / 100, drafted=4, accepted=taken) for n in numbers]
        steps = 49 / LOOKED_UP_TAU.get(kind, 1.0)
        speed += [row(kind, LOOKED_UP, n, decode_steps=steps) for n in numbers]
    story = [row("story", name, n, score_rep_4=rep + n % 2 / 100, score_coherence=0.9)
             for name, rep in REPETITION.items() for n in numbers]
    story += [row("story", LOOKED_UP_SAMPLED, n, decode_steps=40) for n in numbers]
    search = [row(kind, "beam", n, **{f"score_{HEADLINES[kind]}": 1.0}) for kind in ("math", "code", "edit")
              for n in numbers]
    sampled = [row("math", SAMPLED, n, sample, score_flexible=float((n + sample) % 4 == 1))
               for n in numbers for sample in range(4)]
    found = {"speed": speed, "story": story, "search": search, "sampled": sampled}
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def n_even(kind: str) -> float:
    """What the draft gains over 3 of 4: nothing on stories."""
    return 0.0 if kind == "story" else 0.5


def broken(given: dict[str, pd.DataFrame], run: str, task: str, strategy: str, **values: Any) -> set[str]:
    """The names of the figures that do not hold when one cell's columns are changed."""
    frame = given[run].copy()
    cell = (frame["task"] == task) & (frame["strategy"] == STRATEGIES.build(strategy).spec())
    assert cell.any()
    for name, value in values.items():
        frame.loc[cell, name] = value
    return {figure.name for figure in figures(Cells({**given, run: frame})) if figure.met is False}


def test_all_figures_hold_for_a_good_family() -> None:
    found = list(figures(Cells(frames())))
    assert [figure.name for figure in found if figure.met is False] == []
    assert sum(figure.met is True for figure in found) == 22
    values = {figure.name: figure.value for figure in found}
    assert values["acceptance of nano-draft on nano_math"].mean == pytest.approx(3.5 / 4)
    assert values["tau of prompt_lookup on nano_edit"].mean == pytest.approx(4.0)
    assert values["best of 4 samples - greedy on nano_math"].mean == pytest.approx(0.25)
    assert values["speculative / greedy, wall time, on nano_math"].low > 1.5


@pytest.mark.parametrize(("run", "task", "strategy", "values", "name"), [
    ("speed", "nano_chat", "greedy", {"score_follows": 1.0}, "greedy: follows on nano_chat"),
    ("sampled", "nano_math", SAMPLED, {"score_flexible": 1.0}, "greedy - temperature-1 sampling on nano_math"),
    ("story", "nano_story", "top_p", {"score_rep_4": 0.4}, "rep_4 of greedy - 2 x that of top_p"),
    ("story", "nano_story", "momentum", {"score_rep_4": 0.5}, "momentum: repair beyond half of top_p's"),
    ("story", "nano_story", "momentum", {"score_coherence": 0.7}, "momentum: coherence lost"),
    ("speed", "nano_math", DRAFTED, {"accepted": 2.0}, "acceptance of nano-draft on nano_math"),
    ("speed", "nano_story", DRAFTED, {"accepted": 3.6}, "acceptance of nano-draft on nano_story"),
    ("speed", "nano_summary", LOOKED_UP, {"decode_steps": 40.0}, "tau of prompt_lookup on nano_summary"),
    ("story", "nano_story", LOOKED_UP_SAMPLED, {"decode_steps": 20.0}, "tau of prompt_lookup on nano_story, sampled"),
    ("speed", "nano_math", DRAFTED, {"seconds": 1.5}, "speculative / greedy, wall time, on nano_math"),
])
def test_each_figure_can_fail(run: str, task: str, strategy: str, values: dict[str, float], name: str) -> None:
    assert name in broken(frames(), run, task, strategy, **values)


@pytest.mark.slow
def test_the_profile_of_the_shipped_family_is_printed(tmp_path: Any, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.nano.RunConfig", partial(RunConfig, max_new_tokens=24))
    with pytest.raises(SystemExit):
        main(["--limit", "1", "--out", str(tmp_path), "--weights", str(weights("nano").parent)])
    shown = capsys.readouterr().out
    assert "parameters of nano, millions" in shown
    assert "tau of prompt_lookup on nano_summary" in shown
    assert "requirements are met" in shown


def test_a_missing_family_is_one_sentence(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--weights", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "There is no model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
