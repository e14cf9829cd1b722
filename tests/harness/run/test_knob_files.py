"""Files that knobs name are part of a run: a changed file is another run, wherever it lies."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from harness.run.manifest import content_hash, strategy_entry
from harness.store.config import RunConfig
from harness.store.folder import Store
from strategies.greedy import Greedy
from strategies.lenience import Lenience
from strategies.rest import Rest
from strategies.suffix_automaton import SuffixAutomatonDecoding
from tests.harness.run.test_runner import BROKEN, config, go

__all__ = ["config"]

STORED = BROKEN.replace("Broken", "Stored").replace("from harness.plugins.strategy import Strategy", (
    "from harness.plugins.strategy import Strategy, knob")).replace("    paper:", (
        '    store: str = knob("none", "a file", file=True)\n\n    paper:')).replace(
            '        raise RuntimeError("on purpose")\n', "")


def test_the_hash_is_of_the_content_and_of_names_in_a_folder(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") != content_hash(tmp_path / "c")
    for folder, name in (("one", "k"), ("two", "k"), ("three", "l")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("x")
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two") != content_hash(tmp_path / "three")


def test_every_kind_of_strategy_names_its_files(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    path.write_text("x")
    wanted = content_hash(path)
    assert strategy_entry(Rest(store=str(path)), None).files == {"store": wanted}
    assert strategy_entry(SuffixAutomatonDecoding(store=str(path)), None).files == {"store": wanted}
    assert strategy_entry(Lenience(over=f"rest:store={path}"), None).files == {"over.store": wanted}
    over = STRATEGIES.build(f"rest:store={path}+repetition_penalty")
    assert strategy_entry(over, None).files == {"rest.store": wanted}
    assert strategy_entry(Greedy(), None).files == strategy_entry(Rest(), None).files == {}


def test_a_changed_file_is_another_run(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stored.py").write_text(STORED)
    (tmp_path / "s.npz").write_text("x")
    asked = replace(config, strategies=("stored:store=s.npz",), plugins=(*config.plugins, tmp_path / "stored.py"))
    go(asked)
    assert Store.open(config.output or Path()).manifest.strategies[1].files == {"store": content_hash(Path("s.npz"))}
    _, records = go(replace(asked, strategies=(f"stored:store={tmp_path}/s.npz",)))
    assert len(records) == 6
    (tmp_path / "s.npz").write_text("y")
    with pytest.raises(UserError, match=r"holds another run \(strategies differs\)"):
        go(asked)
