"""Tasks that run programs: HumanEval, HumanEval+ and MBPP, their prompts, their rows and their scores."""

import ast
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from harness.errors import UserError
from harness.measure.summary import summarise
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example, Task
from harness.run.runner import run
from harness.sandbox import isolation, run_program
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests import realdata
from tests.pair import saved
from tests.watch import Quiet

REAL = realdata.folder()  # before the variable goes
FILES = {"humaneval": "HumanEval.jsonl.gz", "humaneval_plus": "HumanEvalPlus.jsonl", "mbpp": "mbpp.jsonl"}
PLUS = {  # written after the layout of the release, whose tests compare floats with a tolerance
    "task_id": "HumanEval/0", "entry_point": "halves", "canonical_solution": "    return [x / 2 for x in numbers]\n",
    "prompt": "from typing import List\n\n\ndef halves(numbers: List[int]) -> List[float]:\n    \"\"\" Halve. \"\"\"\n",
    "test": "import numpy as np\n\ndef is_floats(x) -> bool:\n    return isinstance(x, (list, tuple)) and "
            "all(isinstance(i, float) for i in x)\n\n\ndef assertion(out, exp, atol):\n"
            "    if atol == 0 and is_floats(exp):\n        atol = 1e-6\n    if out != exp and atol != 0:\n"
            "        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n    else:\n        assert out == exp\n\n\n"
            "def check(candidate):\n    inputs = [[[1, 2]], [[]], [list(range(5000))]] * 50\n"
            "    results = [[0.5, 1.0000000001], [], [x / 2 for x in range(5000)]] * 50\n"
            "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n",
}
DOUBLE = {
    "task_id": 11, "text": "Write a function to double a number.", "code": "def double(x):\r\n    return 2 * x",
    "test_list": ["assert double(1) == 2", "assert double(0) == 0", "assert double(-1) == -2"],
    "test_setup_code": "", "challenge_test_list": [],
}
TREE = {
    "task_id": 12, "text": "Write a function to count the nodes of a list.", "test_setup_code": "root = Node(1)",
    "code": "class Node:\n  def __init__(self, value):\n    self.next = None\ndef count(n):\n"
            "  return 1 + count(n.next) if n else 0",
    "test_list": ["assert count(root) == 1", "assert count(None) == 0"], "challenge_test_list": [],
}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


def load(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> tuple[Task, list[Example]]:
    path = tmp_path / name / FILES[name]
    path.parent.mkdir(exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    task = TASKS.build(name)
    return task, task.examples(DataSource(tmp_path))


def test_humaneval_plus(tmp_path: Path) -> None:
    task, (example,) = load(tmp_path, "humaneval_plus", [PLUS])
    assert example.id == "HumanEval/0"
    assert task.prompt(example, []) == PLUS["prompt"]
    assert task.stop == TASKS.build("humaneval").stop
    assert task.score(example, [PLUS["canonical_solution"]]) == {"pass": 1, "timeout": 0}
    assert task.score(example, ["    return [x // 2 for x in numbers]\n"]) == {"pass": 0, "timeout": 0}
    assert task.score(example, ["    import numpy\n    return [x / 2 for x in numbers]\n"])["pass"] == 0
    assert task.score(example, ["    while True: pass\n"]) == {"pass": 0, "timeout": 1}


def test_humaneval_instruct_goes_on_with_an_answer_that_has_begun(tmp_path: Path) -> None:
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval" / FILES["humaneval"]).write_bytes(gzip.compress(json.dumps(PLUS).encode()))
    task = TASKS.build("humaneval_instruct")
    (example,) = task.examples(DataSource(tmp_path))
    asked, begun = task.prompt(example, [])
    assert (asked["role"], begun["role"]) == ("user", "assistant")
    assert task.score(example, [PLUS["canonical_solution"]]) == {"pass": 1, "timeout": 0}
    assert "```" in task.stop
    lm_eval = pytest.importorskip("lm_eval")
    config = yaml.load((Path(lm_eval.__file__).parent / "tasks" / "humaneval" / "humaneval_instruct.yaml").read_text(),
                       lm_eval_yaml())
    for message, key in ((asked, "doc_to_text"), (begun, "gen_prefix")):
        text = jinja2.Environment(keep_trailing_newline=True, autoescape=False).from_string(config[key]).render(PLUS)
        assert message["content"] == text


def lm_eval_yaml() -> type[yaml.SafeLoader]:
    """Return a loader of yaml files that name functions."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda *_: None)  # type: ignore[attr-defined]
    return loader


def test_mbpp(tmp_path: Path) -> None:
    others = [{**DOUBLE, "task_id": number} for number in (10, 511, 510)]
    task, (example, tree, last) = load(tmp_path, "mbpp", [DOUBLE, *others[:2], TREE, others[2]])
    assert [one.id for one in (example, tree, last)] == ["mbpp/11", "mbpp/12", "mbpp/510"]
    assert (task.stop, task.max_new_tokens) == (("[DONE]",), 256)
    assert task.score(example, [DOUBLE["code"]]) == {"pass": 1, "timeout": 0}
    assert task.score(example, ["double = lambda x: x + x"]) == {"pass": 1, "timeout": 0}
    for wrong in ("def double(x):\n    return 2", "def triple(x): return 3 * x", "", "import os; os._exit(0)"):
        assert task.score(example, [wrong]) == {"pass": 0, "timeout": 0}
    assert task.score(tree, [TREE["code"]])["pass"] == 1
    assert task.score(tree, [f"{TREE['code']}\ncount = lambda n: 1"])["pass"] == 0


def test_mbpp_tests_can_rely_on_what_the_solution_imports(tmp_path: Path) -> None:
    row = {**DOUBLE, "code": "import math\nfrom collections import Counter\ndef double(x): return 2 * x",
           "test_list": ["assert math.isclose(double(0.1), 0.2)", "assert Counter([double(1)]) == {2: 1}"]}
    task, (example,) = load(tmp_path, "mbpp", [row])
    assert task.score(example, ["def double(x): return x + x"])["pass"] == 1
    cheat = ("class Any:\n  __eq__ = isclose = lambda *_: True\n"
             "math = Any()\nCounter = lambda _: Any()\ndouble = Counter")
    assert task.score(example, [cheat])["pass"] == 0


def test_mbpp_sanitised(tmp_path: Path) -> None:
    row = {"source_file": "x.ipynb", "task_id": 11, "prompt": DOUBLE["text"], "code": DOUBLE["code"],
           "test_imports": ["import math"], "test_list": ["assert math.floor(double(1.5)) == 3"]}
    task, (example,) = load(tmp_path, "mbpp", [row])
    end = "pass these tests:\n\nassert math.floor(double(1.5)) == 3\n\n\n[BEGIN]\n"
    assert str(task.prompt(example, [])).endswith(end)
    assert task.score(example, ["double = lambda x: 2 * x"])["pass"] == 1


def test_mbpp_prompts_are_those_of_lm_eval(tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    folder = Path(lm_eval.__file__).parent / "tasks" / "mbpp"
    config = yaml.load((folder / "mbpp.yaml").read_text(), lm_eval_yaml())
    tree = ast.parse((folder / "utils.py").read_text())  # whose import asks the hub for a metric
    (samples,) = (one.body[0] for one in tree.body if getattr(one, "name", "") == "list_fewshot_samples")
    assert isinstance(samples, ast.Return)
    assert samples.value is not None
    shots = ast.literal_eval(samples.value)
    asked, wanted = (jinja2.Environment(keep_trailing_newline=True, autoescape=False).from_string(config[key])
                     for key in ("doc_to_text", "doc_to_target"))
    assert (len(shots), config["num_fewshot"], config["target_delimiter"]) == (3, 3, "")
    start = "".join(f"{asked.render(shot)}{wanted.render(shot)}\n\n" for shot in shots)
    task, (example,) = load(tmp_path, "mbpp", [DOUBLE])
    assert task.prompt(example, []) == start + asked.render(DOUBLE)
    assert list(task.stop) == config["generation_kwargs"]["until"]


@pytest.mark.parametrize(("name", "row", "problem"), [
    ("humaneval_plus", {**PLUS, "test": None}, "the field 'test' must be text"),
    ("humaneval_plus", {**PLUS, "test": "assert True"}, "the test defines no function check"),
    ("humaneval", {**PLUS, "entry_point": "a b"}, "the entry_point is not the name of a function"),
    ("humaneval_plus", {"task_id": "x"}, "the field 'prompt' is missing"),
    ("mbpp", {**DOUBLE, "text": 5}, "the field 'text' must be text"),
    ("mbpp", {"task_id": 11, "code": "x", "test_list": ["x"]}, "the field 'text' is missing"),
    ("mbpp", {**DOUBLE, "test_list": []}, "the field 'test_list' is empty"),
    ("mbpp", {**DOUBLE, "test_list": "assert"}, "the field 'test_list' must be a list of texts"),
    ("mbpp", {**DOUBLE, "code": "def f(:"}, "the code and its tests are not valid Python"),
    ("mbpp", {**DOUBLE, "task_id": 10}, "the task_id 10 was used before, in line 1"),
    ("mbpp", ["a"], "this is not a JSON object"),
])
def test_bad_rows_are_named(name: str, row: Any, problem: str, tmp_path: Path) -> None:
    good = {**DOUBLE, "task_id": 10} if name == "mbpp" else {**PLUS, "task_id": "good"}
    with pytest.raises(UserError, match=f"{FILES[name]}, line 2: {problem}"):
        load(tmp_path, name, [good, row])


@pytest.mark.parametrize("name", ["humaneval_plus", "mbpp"])
def test_rows_that_are_not_fetched(name: str) -> None:
    with pytest.raises(UserError, match=f"cannot be downloaded: give --data DIR with the file DIR/{name}/"):
        TASKS.build(name).examples(DataSource())


@pytest.fixture
def load_on_all_cores() -> Iterator[None]:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for burner in burners:
        burner.kill()
        burner.wait()


@realdata.needs_real_data
@pytest.mark.usefixtures("load_on_all_cores")
@pytest.mark.parametrize(("workers", "step"), [(1, 16), (8, 1)])  # one after the other takes long on busy cores
def test_humaneval_solutions_pass_and_stubs_fail(workers: int, step: int) -> None:
    from tasks.humaneval import HUB

    task, source = TASKS.build("humaneval"), DataSource(REAL)
    found = task.examples(source)
    assert len(found) == 164
    rows = source.rows("humaneval", "HumanEval.jsonl.gz", HUB, {"canonical_solution": str})
    solved = [(example, row["canonical_solution"]) for example, row in zip(found, rows, strict=True)]
    solved, stubs = solved[::step], [(example, "    pass\n") for example in found[::4] if workers > 1]
    with ThreadPoolExecutor(workers) as pool:
        scores = list(pool.map(lambda one: task.score(one[0], [one[1]]), solved + stubs))
    assert [score["pass"] for score in scores] == [1.0] * len(solved) + [0.0] * len(stubs)
    assert not any(score["timeout"] for score in scores)


def test_programs_of_other_models_are_run_when_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = RunConfig(model=str(saved("llama")), tasks=("nano_code",), strategies=("greedy",), device="cpu", limit=1,
                      max_new_tokens=4, threads=1, texts=False, output=tmp_path / "no")
    ran: list[str] = []
    monkeypatch.setattr("harness.scoring.metrics.run_program",
                        lambda program, *_, **__: ran.append(program) or run_program(program))
    refused = Store.open(run(asked, Quiet(), "").folder)
    assert ran == []
    assert "sandbox" not in refused.manifest.environment
    assert refused.manifest.tasks[0].unscored == "code not run: allow it with --allow-code-execution"
    assert [record.scores for record in refused.records()] == [{}]
    allowed = Store.open(run(replace(asked, allow_code_execution=True, output=tmp_path / "yes"), Quiet(), "").folder)
    assert len(ran) == 1
    assert allowed.manifest.environment["sandbox"] == isolation()
    (kept,) = allowed.records()
    assert set(kept.scores) == {"pass", "timeout"}
    assert kept.turns[0].raw.startswith(kept.turns[0].text)


def test_stored_programs_are_scored_once_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = RunConfig(model=str(saved("llama")), tasks=("nano_code", "nano_math"),
                      strategies=("greedy", "beam:width=2"), device="cpu", limit=3, max_new_tokens=4, threads=1,
                      texts=False)
    solved = {example.id: example for example in TASKS.build("nano_code").examples(DataSource())[:3]}
    before = Store.open(run(asked, Quiet(), "").folder)
    answers = [record.model_dump(exclude={"scores", "reason"}) for record in before.records()]
    maths = [record.scores for record in before.records() if record.task == "nano_math"]
    shown = summarise(before).set_index("task").loc["nano_code"]
    assert shown["quality"].isna().all()
    decoded: list[object] = []
    monkeypatch.setattr("harness.run.runner.Runner.decode", lambda *_: decoded.append(1) or [])

    after = Store.open(run(replace(asked, allow_code_execution=True), Quiet(), "").folder)
    assert after.folder == before.folder, "the same command without -o finds its run"
    assert not decoded
    assert [record.model_dump(exclude={"scores", "reason"}) for record in after.records()] == answers
    programs = [record for record in after.records() if record.task == "nano_code"]
    assert len(programs) == 6
    for record in programs:
        task = TASKS.build("nano_code")
        assert record.reason == "" if record.scores["pass"] else record.reason
        assert record.scores == task.score(solved[record.example], [turn.text for turn in record.turns])
    assert [record.scores for record in after.records() if record.task == "nano_math"] == maths
    assert [task.unscored for task in after.manifest.tasks] == [None, None]
    assert after.manifest.environment["sandbox"] == isolation()
    scored = summarise(after).set_index("task").loc["nano_code"]
    assert scored["quality"].tolist() == [0.0, 0.0]
    assert scored["quality_note"].tolist() == ["", ""]

    kept = Store.open(run(asked, Quiet(), "").folder)  # a finished run keeps its scores without the option
    assert list(kept.records()) == list(after.records())
    assert kept.manifest == after.manifest


def test_a_scored_run_goes_on_only_with_scores(tmp_path: Path) -> None:
    asked = RunConfig(model=str(saved("llama")), tasks=("nano_code",), strategies=("greedy",), device="cpu", limit=2,
                      max_new_tokens=4, threads=1, texts=False, output=tmp_path / "run", allow_code_execution=True)
    store = Store.open(run(asked, Quiet(), "").folder)
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:whole.index(b"\n") + 1])
    with pytest.raises(UserError, match="nano_code, and the rest would have no score: give --allow-code-execution"):
        run(replace(asked, allow_code_execution=False), Quiet(), "")
    assert store.path.read_bytes() == whole[:whole.index(b"\n") + 1]
    run(asked, Quiet(), "")
    assert [set(record.scores) for record in store.records()] == [{"pass", "timeout"}] * 2


def test_scoring_stored_programs_can_be_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = RunConfig(model=str(saved("llama")), tasks=("nano_code",), strategies=("greedy",), device="cpu", limit=2,
                      max_new_tokens=4, threads=1, texts=False, output=tmp_path / "run")
    store = Store.open(run(asked, Quiet(), "").folder)
    before = store.path.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt
    with monkeypatch.context() as patched:
        patched.setattr("harness.run.late_scores.scored", killed)
        with pytest.raises(KeyboardInterrupt):
            run(replace(asked, allow_code_execution=True), Quiet(), "")
    assert store.path.read_bytes() == before
    run(replace(asked, allow_code_execution=True), Quiet(), "")
    assert [set(record.scores) for record in store.records()] == [{"pass", "timeout"}] * 2
