"""GSM8K beside lm-evaluation-harness: its prompts, its filters with its exact_match, and the original scorer."""

import json
import re
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import lm_eval.utils
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import postprocess_generated_text

from harness.models.stop_rule import StopRule
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.scoring.metrics import GSM8KAnswer
from tests import realdata
from tests.gsm8k_answers import ANSWERS, GOLDS
from tests.scale import scaled

VARIANTS = {"gsm8k": "gsm8k-cot", "gsm8k_5shot": "gsm8k", "gsm8k_zeroshot": "gsm8k-cot-zeroshot",
            "gsm8k_chat": "gsm8k-cot-llama"}
PIECES = ("The answer is ", "The final answer is ", "#### ", "#", "Q:", "Question:", "</s>", "<|im_end|>", "\\boxed{",
          "}", "$", ",", ".", "-", "\u2212", "%", "/", " ", "\n", "\r", "\0", "\u00a0", "\u0663", "\uff11", "\u00bd",
          "and", "18", "5", "0", "1,800", "$18.00", "-7", ".5", "18.")


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval.utils.env, "from_string", cache(lm_eval.utils.env.from_string))  # 30 times as fast


def theirs(variant: str, data: Path, cache_folder: Path) -> ConfigurableTask:
    """Return the task of lm-evaluation-harness on the rows in `data`, as its evaluator creates it."""
    file = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / f"{VARIANTS[variant]}.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert config.pop("dataset_path") == "openai/gsm8k"
    for name in ("tag", "dataset_name"):
        config.pop(name)
    files = {name: str(data / "gsm8k" / f"{name}.jsonl") for name in ("train", "test")}
    rows = {"data_files": files, "cache_dir": str(cache_folder)}
    task = ConfigurableTask(config=config | {"dataset_path": "json", "dataset_kwargs": rows})
    task.set_fewshot_seed(1234)  # the default of its simple_evaluate
    return task


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a few invented problems."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "gsm8k").mkdir()
    for name in ("train", "test"):
        lines = (json.dumps({"question": f" {name}\n{{{i}}}? ", "answer": f"Well.\n#### {i},000"}) for i in range(40))
        (folder / "gsm8k" / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, rows: Path) -> tuple[str, ConfigurableTask]:
    """Return a variant and its counterpart in lm-evaluation-harness on the invented problems."""
    return request.param, theirs(request.param, rows, rows)


def judged(task: ConfigurableTask, answer: str, gold: str) -> dict[str, float]:
    """Return the scores of lm-evaluation-harness for an answer, by filter."""
    doc = {"question": "How many?", "answer": f"Some steps of 1 + 1.\n#### {gold}"}
    instance = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0)
    instance.resps = [answer]
    scores = {}
    for ensemble in task._filters:
        ensemble.apply([instance])
        extracted = instance.filtered_resps[ensemble.name]
        scores[ensemble.name] = float(task.process_results(doc, [extracted])["exact_match"])
    return scores


def original(answer: str, gold: str) -> float:
    """The scorer of the paper's repository, written from its description: first match, no commas, equal text."""
    found = re.search(r"#### (\-?[0-9\.\,]+)", answer)
    return float(found is not None and found.group(1).strip().replace(",", "") == gold.replace(",", ""))


def check(variant: str, twin: ConfigurableTask, metric: GSM8KAnswer, answer: str, gold: str) -> None:
    ours, lm_eval_scores = metric.sample([answer], {"answer": gold}), judged(twin, answer, gold)
    flexible, strict = lm_eval_scores["flexible-extract"], lm_eval_scores["strict-match"]
    wanted = {"flexible": flexible, "strict": strict, "only_flexible": float(flexible > strict),
              "only_strict": float(strict > flexible)}
    if variant == "gsm8k_5shot":
        wanted["original"] = original(answer, gold)
    assert ours == wanted, (answer, gold)


def metric_of(variant: str) -> GSM8KAnswer:
    metric = TASKS.build(variant).metric()
    assert isinstance(metric, GSM8KAnswer)
    return metric


def test_scores_of_adversarial_answers(pair: tuple[str, ConfigurableTask]) -> None:
    variant, twin = pair
    metric = metric_of(variant)
    assert len(ANSWERS) > 150
    for answer, gold in islice(product(ANSWERS, GOLDS), 0, None, scaled(4, 1)):  # four of the 15 golds an answer
        check(variant, twin, metric, answer, gold)


def test_scores_of_any_answer(pair: tuple[str, ConfigurableTask]) -> None:
    metric, (variant, twin) = metric_of(pair[0]), pair
    golds = st.sampled_from(GOLDS) | st.from_regex(r"-?[0-9][0-9,.]{0,8}", fullmatch=True)

    @given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join), golds)
    def holds(answer: str, gold: str) -> None:
        check(variant, twin, metric, answer, gold)
    holds()


@given(st.sampled_from(sorted(VARIANTS)), st.lists(st.sampled_from((*PIECES, "<|eot_id|>", "<", ":"))).map("".join))
def test_answers_are_cut_alike(variant: str, answer: str) -> None:
    class Characters:
        def decode(self, tokens: list[int], **_: Any) -> str:
            return "".join(map(chr, tokens))

    stops = TASKS.build(variant).stop
    assert StopRule(Characters(), [], frozenset(), stops).before_stop(answer) == \
        postprocess_generated_text(answer, list(stops), None)


def test_prompts_stops_and_golds(pair: tuple[str, ConfigurableTask], rows: Path) -> None:
    assert len(set(compared(*pair, rows))) == 40


@realdata.needs_real_data
@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_stops_and_golds_of_all_published_problems(variant: str, tmp_path: Path) -> None:
    folder = realdata.folder()
    assert folder is not None
    assert compared(variant, theirs(variant, folder, tmp_path), folder) == [f"gsm8k/{i}" for i in range(1319)]


def compared(variant: str, twin: ConfigurableTask, data: Path) -> list[str]:
    """Compare the prompts and scores of all problems with lm-evaluation-harness, and return their ids."""
    task, metric, chats = TASKS.build(variant), metric_of(variant), list[Any]()

    def chat(messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        assert add_generation_prompt
        chats.append(messages)
        return ""

    options = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": chat} if task.chat else {}
    docs = list(twin.test_docs())
    prompts = [twin.fewshot_context(doc, twin.config.num_fewshot, **options) for doc in docs]
    found = task.examples(DataSource(data))
    assert [task.prompt(example, []) for example in found] == (chats if task.chat else prompts)
    assert list(task.stop) == twin.config.generation_kwargs["until"]
    for example, doc in zip(found, docs, strict=True):
        assert metric.normal(example.gold["answer"]) == metric.normal(twin.doc_to_target(doc))
        assert original(doc["answer"], example.gold["answer"]) == 1.0
    return [example.id for example in found]
