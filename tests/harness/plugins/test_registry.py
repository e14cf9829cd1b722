"""The registry: names without imports, one owner a name, and a sentence for every file that is no plugin."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plugins import registry as module
from harness.plugins.registry import Registry, add_plugin
from harness.plugins.strategy import Strategy
from harness.plugins.task import Task

GOOD = '''"""A good idea.

And more.
"""
from dataclasses import dataclass
from harness.plugins.strategy import Strategy, knob

@dataclass(frozen=True)
class Good(Strategy):
    share: float = knob(0.5, "share", low=0, high=1)
    paper = "none"
    family = "test"
    guarantee = "changes-output"

    def generate(self, session, request):
        yield [1]
'''
TASK = '''"""A task."""
from dataclasses import dataclass
import harness.plugins.task as base

@dataclass(frozen=True)
class Words(base.Task):
    version = 1
    source = "test"
    headline = "none"
    max_new_tokens = 1

    def examples(self, data):
        return []
'''
TOUCH = '''"""Writes a file when it is imported."""
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()
'''


@pytest.fixture
def strategies(monkeypatch: pytest.MonkeyPatch) -> Registry[Strategy]:
    fresh: Registry[Strategy] = Registry("strategy", "strategies", Strategy)  # type: ignore[type-abstract]
    monkeypatch.setattr(module, "STRATEGIES", fresh)
    return fresh


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Registry[Task]:
    fresh: Registry[Task] = Registry("task", "tasks", Task)  # type: ignore[type-abstract]
    monkeypatch.setattr(module, "TASKS", fresh)
    return fresh


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(registry: Registry[Strategy], path: Path) -> str:
    registry.add_file(path)
    with pytest.raises(UserError) as caught:
        registry.get(path.stem)
    return str(caught.value)


def test_built_ins_are_the_files(strategies: Registry[Strategy], tasks: Registry[Task]) -> None:
    assert {"greedy", "top_p", "beam", "speculative"} <= set(strategies.names())
    assert {"gsm8k", "nano_math"} <= set(tasks.names())
    assert "drafters" not in strategies.names()
    assert strategies.names() == sorted(strategies.names())
    assert strategies.origin("greedy").endswith("strategies/greedy.py")
    assert strategies.idea("greedy") == "Greedy decoding: always the likeliest next token."


def test_every_built_in_can_be_built_and_names_itself(strategies: Registry[Strategy], tasks: Registry[Task],
                                                      tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", '{"prompt": "1 + 1 = ", "answer": 2}')
    specs = {name: f"{name}:file={path}" for name in ("continuation", "task_file")}
    for registry in (strategies, tasks):
        for name in registry.built_in():
            plugin = registry.build(specs.get(name, name))
            assert plugin.name == name
            assert registry.build(plugin.spec()) == plugin
            assert registry.idea(name).endswith("."), "the first line of the docstring is a sentence"


def test_an_unknown_name_gets_the_nearest(strategies: Registry[Strategy]) -> None:
    with pytest.raises(UserError, match=r"There is no strategy 'gredy'\. Did you mean 'greedy'\?"):
        strategies.get("gredy")
    with pytest.raises(UserError, match=r"There is no strategy ''\. Known: adaptive_p, aded, "):
        strategies.build(":p=1")


def test_a_file_is_a_plugin(strategies: Registry[Strategy], tmp_path: Path) -> None:
    path = write(tmp_path, "good.py", GOOD)
    assert strategies.add_file(path) == "good"
    assert strategies.idea("good") == "A good idea."
    assert strategies.origin("good") == str(path)
    assert strategies.build("good:share=1").spec() == "good:share=1"
    assert strategies.get("good") is strategies.get("good")


def test_listing_runs_no_plugin(strategies: Registry[Strategy], tmp_path: Path) -> None:
    path = write(tmp_path, "touch.py", TOUCH)
    add_plugin(path)
    assert strategies.idea("touch") == "Writes a file when it is imported."
    assert "touch" in strategies.names()
    assert not path.with_suffix(".ran").exists()


def test_the_base_class_says_whether_it_is_a_strategy_or_a_task(strategies: Registry[Strategy], tasks: Registry[Task],
                                                                tmp_path: Path) -> None:
    add_plugin(write(tmp_path, "good.py", GOOD))
    add_plugin(write(tmp_path, "words.py", TASK))
    add_plugin(write(tmp_path, "deeper.py", GOOD.replace("(Strategy)", "(TopP)")))
    assert {"good", "deeper"} <= set(strategies.names())
    assert "words" not in strategies.names()
    assert tasks.build("words").spec() == "words"


def test_the_same_file_twice_is_one_plugin_and_another_is_refused(strategies: Registry[Strategy], tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "good.py", GOOD)
    monkeypatch.chdir(tmp_path)
    assert strategies.add_file(path) == strategies.add_file(Path("good.py")) == "good"
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", "good.py", GOOD)
    with pytest.raises(UserError) as caught:
        strategies.add_file(other)
    assert str(caught.value) == (f"The strategy 'good' is defined twice: in {path} and in {other}; "
                                 "give your file another name.")
    with pytest.raises(UserError, match=r"'greedy' is defined twice: in .*strategies/greedy.py and in .*greedy.py"):
        strategies.add_file(write(tmp_path, "greedy.py", GOOD))


@pytest.mark.parametrize(("text", "words"), [
    (GOOD.replace("@dataclass(frozen=True)", "@dataclass"), "cannot be imported: TypeError: cannot inherit non-frozen"),
    (GOOD.replace("@dataclass(frozen=True)\n", ""), "must be a subclass of Strategy decorated with @dataclass(frozen"),
    ('"""Nothing."""\n', "must define exactly one subclass of Strategy, not 0."),
    (GOOD + "\n\nclass Other(Good):\n    pass\n", "must define exactly one subclass of Strategy, not 2."),
    (GOOD + "\nimport nowhere_to_be_found\n", "cannot be imported: ModuleNotFoundError: No module named 'nowhere"),
    (TASK, "must define exactly one subclass of Strategy, not 0."),
])
def test_what_is_no_plugin_is_refused_in_a_sentence(strategies: Registry[Strategy], tmp_path: Path, text: str,
                                                    words: str) -> None:
    assert words in refusal(strategies, write(tmp_path, "odd.py", text))


def test_a_private_class_may_stand_beside_the_plugin(strategies: Registry[Strategy], tmp_path: Path) -> None:
    strategies.add_file(write(tmp_path, "good.py", GOOD.replace("Good(", "_Base(") + "\n\n@dataclass(frozen=True)\n"
                              "class Good(_Base):\n    pass\n"))
    assert strategies.build("good").spec() == "good:share=0.5"


def test_files_that_are_no_python_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no plugin file"):
        add_plugin(tmp_path / "absent.py")
    with pytest.raises(UserError, match=r"cannot be read as a Python file: .*invalid syntax"):
        add_plugin(write(tmp_path, "torn.py", "def f(:\n"))
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a Python file"):
        add_plugin(tmp_path / "bytes.py")


def install(folder: Path, name: str, points: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    write(info, "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    write(info, "entry_points.txt", f"[decodebench.strategies]\n{points}\n")


def test_entry_points_are_found_and_limited(strategies: Registry[Strategy], tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "theirs.py", GOOD)
    install(tmp_path, "Their_Package", "foreign = theirs")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("DECODEBENCH_PLUGINS", raising=False)
    assert "foreign" in strategies.names()
    assert strategies.origin("foreign") == "the package 'Their_Package' (theirs)"
    assert strategies.idea("foreign") == ""
    assert strategies.build("foreign").spec() == "foreign:share=0.5"
    for allowed, found in {"their-package": True, "x, their.package": True, "": False, "other": False}.items():
        monkeypatch.setenv("DECODEBENCH_PLUGINS", allowed)
        assert ("foreign" in strategies.names()) is found


def test_two_packages_of_one_name_are_refused(strategies: Registry[Strategy], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "one", "foreign = theirs")
    install(tmp_path, "two", "foreign = others")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"defined twice: in the package '\w+' .* and in the package '\w+' "):
        strategies.names()


def test_an_entry_point_that_cannot_be_loaded_names_its_package(strategies: Registry[Strategy], tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "lost", "foreign = nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"'foreign' from the package 'lost' .* cannot be loaded: No module named"):
        strategies.get("foreign")
