"""The runner end to end on a tiny saved model: order, resume, failures, limits and what is refused."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.measure.summary import summarise
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.spec import Spec
from harness.report.tables import notes
from harness.run.plan import make
from harness.run.runner import Outcome, in_proportion, run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.pair import saved
from tests.scale import scaled
from tests.watch import Quiet

TASK = '''"""Three words to go on from."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class Words(Task):
    version: ClassVar[int] = 1
    source: ClassVar[str] = "test"
    headline: ClassVar[str] = "length"
    max_new_tokens: ClassVar[int] = 12
    stop: ClassVar[tuple[str, ...]] = ("zz",)

    def examples(self, data):
        return [Example(str(i), (text,)) for i, text in enumerate(("one two", "three", "four five six"))]

    def score(self, example, answers):
        return {"length": float(len(answers[0]))}
'''
BROKEN = '''"""Fails on its second token."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.strategy import Strategy

@dataclass(frozen=True)
class Broken(Strategy):
    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[str] = "changes-output"

    def generate(self, session, request):
        yield [5]
        raise RuntimeError("on purpose")
'''


def described(folder: Path) -> RunConfig:
    """Return the settings of a run of eight strategies in `folder`."""
    for name, text in (("words", TASK), ("broken", BROKEN)):
        (folder / f"{name}.py").write_text(text)
    files = (folder / "words.py", folder / "broken.py")
    return RunConfig(model=str(saved("llama")), draft=str(saved("llama", 1)), tasks=("words",), plugins=files,
                     threads=1, device="cpu", output=folder / "run",
                     strategies=("top_p:p=0.9", "beam:width=3", "diverse_beam", "contrastive_search", "momentum",
                                 "speculative", "prompt_lookup"))


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    yield described(tmp_path)
    STRATEGIES._files.clear()
    TASKS._files.clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[Record]]:
    """What the run of `config` gives, for tests that compare with it."""
    done = go(described(tmp_path_factory.mktemp("finished")))
    STRATEGIES._files.clear()
    TASKS._files.clear()
    return done


@pytest.fixture
def few(config: RunConfig) -> RunConfig:
    """Two strategies beside greedy: enough where it does not matter which they are."""
    return replace(config, strategies=("beam:width=3", "speculative"))


def go(config: RunConfig, watcher: Quiet | None = None) -> tuple[Outcome, list[Record]]:
    outcome = run(config, watcher or Quiet(), "decodebench run")
    return outcome, list(Store.open(outcome.folder).records())


def test_every_strategy_runs_every_example_once(finished: tuple[Outcome, list[Record]]) -> None:
    outcome, records = finished
    assert (outcome.samples, outcome.failed, len({r.key for r in records}), len(records)) == (24, 0, 24, 24)
    assert {Spec.parse(r.strategy).name for r in records} == {"greedy", "top_p", "beam", "diverse_beam", "momentum",
                                                               "contrastive_search", "speculative", "prompt_lookup"}
    greedy = {r.example: r.turns[0].tokens for r in records if r.strategy == "greedy"}
    for record in records:
        turn = record.turns[0]
        assert sum(turn.steps.tokens) == len(turn.tokens) <= 12
        assert record.scores == {"length": float(len(turn.text))}
        if record.strategy.startswith(("speculative", "prompt_lookup")):
            assert turn.tokens == greedy[record.example]


def test_the_order_is_interleaved_and_seeded(config: RunConfig, finished: tuple[Outcome, list[Record]]) -> None:
    _, records = finished
    blocks = [[r.strategy for r in records if r.block == block] for block in range(3)]
    assert all(len(set(block)) == 8 for block in blocks)
    assert len({tuple(block) for block in blocks}) > 1
    _, again = go(config)
    assert [r.key for r in again] == [r.key for r in records]
    assert [r.turns[0].tokens for r in again] == [r.turns[0].tokens for r in records]


@pytest.mark.parametrize("concurrency", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_concurrency_changes_no_token(config: RunConfig, finished: tuple[Outcome, list[Record]],
                                      concurrency: int) -> None:
    _, one = finished
    _, many = go(replace(config, concurrency=concurrency))
    assert {r.key: r.turns[0].tokens for r in many} == {r.key: r.turns[0].tokens for r in one}
    assert {r.key: r.turns[0].steps.forwards for r in many} == {r.key: r.turns[0].steps.forwards for r in one}


def test_resume_repeats_and_loses_nothing(config: RunConfig, finished: tuple[Outcome, list[Record]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(config, Quiet(stop_after=10))
    with (config.output / "records" / "0000.jsonl").open("a") as file:
        file.write('{"task": "words", "exam')  # a line torn by a kill
    watcher = Quiet()
    _, records = go(config, watcher)
    assert watcher.done == 10
    assert len(watcher.records) == 14
    assert set(Counter(r.key for r in records).values()) == {1}
    assert {r.key: r.turns[0].tokens for r in records} == {r.key: r.turns[0].tokens for r in finished[1]}


def test_another_run_in_the_folder_is_refused(few: RunConfig) -> None:
    go(few)
    before = (few.output / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="seed differs"):
        go(replace(few, seed=1))
    assert (few.output / "manifest.json").read_bytes() == before
    (few.output.parent / "notes").mkdir()
    (few.output.parent / "notes" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not a run"):
        go(replace(few, output=few.output.parent / "notes"))


def test_a_setting_that_an_older_version_did_not_have_is_none(few: RunConfig) -> None:
    go(few)
    path = few.output / "manifest.json"
    held = json.loads(path.read_text())
    del held["config"]["max_new_tokens"]
    path.write_text(json.dumps(held))
    assert go(few)[1], "it resumes"
    with pytest.raises(UserError, match="max_new_tokens differs"):
        go(replace(few, max_new_tokens=3))


def test_a_failed_sample_is_a_record(config: RunConfig) -> None:
    outcome, records = go(replace(config, strategies=("broken",), concurrency=2))
    assert outcome.failed == 3
    failed = [r for r in records if r.strategy == "broken"]
    assert {(r.status, r.error, tuple(r.turns), tuple(r.scores)) for r in failed} == {
        ("failed", "RuntimeError: on purpose (broken.py, line 14)", (), ())}
    assert all(r.status == "ok" for r in records if r.strategy == "greedy")


def test_samples(config: RunConfig) -> None:
    _, records = go(replace(config, samples=3, strategies=("top_p", "beam:width=3", "beam:width=2")))
    texts = Counter((Spec.parse(r.strategy).name, r.example) for r in records)
    assert set(texts.values()) == {3}
    beams = {tuple(r.turns[0].tokens) for r in records if r.strategy.startswith("beam") and r.example == "0"}
    assert len(beams) == 3
    manifest = Store.open(config.output).manifest
    reasons = {s.name + str(s.knobs.get("width", "")): s.unsupported for s in manifest.strategies}
    assert reasons["beam2"] == "gives at most 2 samples a prompt"
    assert reasons["beam3"] is None


def test_without_a_draft_model_the_cell_has_a_reason(config: RunConfig) -> None:
    _, records = go(replace(config, draft=None, strategies=("speculative",)))
    assert {r.strategy for r in records} == {"greedy"}
    entry = Store.open(config.output).manifest.strategies[1]
    assert "--draft" in (entry.unsupported or "")


def test_long_prompts_are_refused_by_name_or_cut(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(TASK.replace('"three"', '"three " * 200').replace("12", "30"))
    _, records = go(replace(config, strategies=("speculative",)))
    long = [r for r in records if r.example == "1"]
    assert {r.status for r in long} == {"failed"}
    assert all("1200 tokens but the context of the model is 512" in (r.error or "") for r in long)
    assert {r.status for r in records if r.example != "1"} == {"ok"}
    _, records = go(replace(config, strategies=("speculative",), truncate_prompts=True, output=tmp_path / "cut"))
    assert {r.turns[0].prompt_tokens for r in records if r.example == "1"} == {482}


def test_a_task_may_have_examples_that_are_left_out(few: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(TASK.replace('"three"', '"three " * 99 + "four"').replace(
        "    def score", "    def exemplars(self, example):\n        return ['three ' * 40] * 4\n\n    def score"))
    outcome, records = go(few)
    assert outcome.failed == 0
    cuts = {r.example: (r.turns[0].prompt_tokens, r.turns[0].prompt_cut) for r in records}
    assert cuts == {"0": (7, 0), "1": (358, 240), "2": (13, 0)}
    summary = summarise(Store.open(outcome.folder))
    assert "words: 33 % of the prompts lost worked examples or their start, to fit the context" in notes(summary)


def test_programs_of_texts_decoded_together_run_side_by_side(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(TASK.replace("from typing", "import threading\nfrom typing").replace(
        "    stop:", "    executes_code: ClassVar[bool] = True\n    meeting: ClassVar = threading.Barrier(3)\n    stop:"
    ).replace("        return {", "        self.meeting.wait(timeout=60)\n        return {"))
    outcome, records = go(replace(config, strategies=("greedy",), concurrency=3, allow_code_execution=True))
    assert outcome.failed == 0
    assert [r.scores["length"] for r in records] == [len(r.turns[0].text) for r in records]
    assert [r.example for r in records] == ["0", "1", "2"]


def test_the_context_ends_an_answer(few: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(TASK.replace('"three"', '"t" * 505').replace("12", "40"))
    _, records = go(few)
    stops = {r.turns[0].stop for r in records if r.example == "1"}
    assert stops <= {"context", "eos", "stop"}
    assert all(len(r.turns[0].tokens) <= 7 for r in records if r.example == "1")


@pytest.mark.parametrize(("change", "message"), [
    ({"strategies": ("gredy",)}, "Did you mean 'greedy'"), ({"strategies": ("beam:widht=3",)}, "Did you mean 'width'"),
    ({"strategies": ("beam:width=0",)}, "at least 1"), ({"strategies": ("beam:width=two",)}, "a whole number"),
    ({"tasks": ("wrods",)}, "Did you mean 'words'"), ({"model": "nowhere/at/all"}, "There is no model"),
    ({"model": "nanoo"}, "Did you mean 'nano'"), ({"dtype": "float31"}, "Did you mean 'float32'"),
    ({"device": "cuda:99"}, "cannot be used here"), ({"device": "toaster"}, "cannot be used here"),
    ({"output": Path("/proc/nowhere")}, "cannot be written"), ({"data": Path("/no/such/folder")}, "no/such/folder"),
    ({"plugins": (Path("no.py"),)}, "There is no plugin file"),
])
def test_bad_input_is_one_sentence(config: RunConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        go(replace(config, **change))
    assert "\n" not in str(caught.value)
    assert not config.output.exists()
    assert not list(config.output.parent.glob("**/manifest.json"))


def test_the_manifest_says_what_was_run(few: RunConfig) -> None:
    go(few)
    manifest = json.loads((few.output / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["baseline"] == "greedy"
    assert manifest["tasks"][0]["data_hash"]
    assert manifest["model"]["architecture"] == "LlamaForCausalLM"
    assert manifest["environment"]["packages"]["torch"]
    assert manifest["config"]["seed"] == 0


def test_the_same_rows_from_another_place_are_the_same_run(config: RunConfig) -> None:
    manifest = make(config, "").manifest
    moved = manifest.model_copy(update={"tasks": [manifest.tasks[0].model_copy(update={"data": "elsewhere"})]})
    changed = manifest.model_copy(update={"tasks": [manifest.tasks[0].model_copy(update={"data_hash": "0"})]})
    assert moved.identity() == manifest.identity() != changed.identity()


def test_a_small_model_runs_on_one_thread_unless_told_otherwise(config: RunConfig) -> None:
    try:
        assert make(replace(config, threads=None), "").manifest.environment["threads"] == 1
        two = make(replace(config, threads=2), "").manifest
        assert two.environment["threads"] == 2
        assert two.identity() == make(config, "").manifest.identity(), "threads must not keep a run from resuming"
    finally:
        torch.set_num_threads(1)


SHARED_TASK = TASK.replace('"one two"', 'START + "one two"').replace('"three"', 'START + "three"').replace(
    '"four five six"', 'START + "six"').replace("from dataclasses", 'START = "Three short examples, and then: "\nfrom '
                                                "dataclasses", 1)


def test_what_all_prompts_begin_with_is_read_once(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(SHARED_TASK)
    _, apart = go(replace(config, share_prefix=False))
    for concurrency in (3, 1)[:scaled(1, 2)]:
        _, shared = go(replace(config, concurrency=concurrency, output=tmp_path / f"shared-{concurrency}"))
        assert {r.key: r.turns[0].tokens for r in shared} == {r.key: r.turns[0].tokens for r in apart}
        first = {r.key: r.turns[0].steps.positions[0] for r in apart if r.strategy != "beam"}
        for record in shared:
            turn = record.turns[0]
            assert turn.prompt_shared == len("Three short examples, and then: ")
            if not record.strategy.startswith(("beam", "diverse")):
                assert turn.steps.positions[0] == first[record.key] - turn.prompt_shared
    assert {r.turns[0].prompt_shared for r in apart} == {0}


LIAR = '''"""Claims to be greedy, and is not at its third token."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.strategy import Strategy

@dataclass(frozen=True)
class Liar(Strategy):
    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[str] = "lossless"

    def generate(self, session, request):
        text = list(request.prompt)
        while True:
            session.follow(text)
            order = session.read().logits[0].argsort(descending=True).tolist()
            text.append(order[len(text) - len(request.prompt) == 2])
            yield text[-1:]
'''


def test_an_answer_that_should_be_the_baselines_is_explained(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "liar.py").write_text(LIAR)
    config = replace(config, plugins=(*config.plugins, tmp_path / "liar.py"), strategies=("liar", "prompt_lookup"))
    outcome, records = go(config)
    store, target = Store.open(outcome.folder), make(config, "").target
    found = store.divergences()
    assert {(d.strategy, d.turn, d.at) for d in found} == {("liar", 0, 2)}
    assert len(found) == 3
    by_key = {r.key: r for r in records}
    for each in found:
        liar = by_key[each.task, each.example, "liar", 0, 0].turns[0]
        text = torch.tensor([target.tokenizer(liar.prompt)["input_ids"] + liar.tokens[:2]])
        with torch.inference_mode():
            best = target.engine.model(input_ids=text).logits[0, -1].topk(2).values
        assert each.margin == pytest.approx(float(best[0] - best[1]), abs=1e-4)
    (note,) = [line for line in notes(summarise(store)) if "differ from the baseline" in line]
    assert note.startswith("liar on words: 3 of 3 answers")


def test_padding_and_batch_are_recorded(few: RunConfig, tmp_path: Path) -> None:
    _, alone = go(few)
    assert {(r.batch, r.padding) for r in alone} == {(1.0, 0.0)}
    _, three = go(replace(few, concurrency=3, output=tmp_path / "three"))
    greedy = [r for r in three if r.strategy == "greedy"]
    assert all(1 < r.batch <= 3 and 0 < r.padding < 1 for r in greedy)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_text_that_fits_nowhere_is_a_sentence_in_its_record(few: RunConfig, tmp_path: Path, concurrency: int
                                                              ) -> None:
    (tmp_path / "words.py").write_text(TASK.replace('"three"', '"three " * 60'))
    _, records = go(replace(few, cache_gb=1e-5, concurrency=concurrency))
    assert {(r.example, r.status) for r in records} == {("0", "ok"), ("1", "failed"), ("2", "ok")}
    assert all("raise --cache-gb" in str(r.error) for r in records if r.example == "1")


def test_a_batch_shares_its_time_in_proportion_to_what_its_samples_took() -> None:
    assert in_proportion(6.0, [1.0, 2.0, 0.0, 1.0]) == [1.5, 3.0, 0.0, 1.5]  # the third one failed
    assert in_proportion(6.0, [1.0, float("nan")]) == [3.0, 3.0]
    assert in_proportion(6.0, [0.0, 0.0]) == [3.0, 3.0]
