"""The report of losslessness: right strategies pass, planted mistakes are caught, and the command says so."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from harness.decoding import accept
from harness.engine.session import Session
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.spec import Spec
from harness.plugins.strategy import Request, Strategy
from harness.report import verify as shown
from harness.run import loading
from harness.run import plan as plans
from harness.run.plan import make
from harness.stats.distribution import Shares, any_of, independent, uniform
from harness.stats.multiple import holm
from harness.store.config import RunConfig
from harness.verify import checker as module
from harness.verify import distribution
from harness.verify.checker import Checker, verify
from harness.verify.distribution import Distribution, Evidence, uncached_logits
from harness.verify.results import Report, StrategyResult, adjusted
from strategies.prompt_lookup import PromptLookup
from strategies.speculative import Speculative
from tests import planted
from tests.decode import engine
from tests.models import ARCHS, tiny_model
from tests.pair import saved
from tests.plugins import BROKEN, TASK
from tests.program import call
from tests.scale import scaled

ROOT = Path(__file__).resolve().parents[3]
HOT, COOL = Distribution(1.0), Distribution(0.7, 0.9)
WRONG = '''"""Writes one wrong token."""
from dataclasses import dataclass
from strategies.speculative import Speculative

@dataclass(frozen=True)
class Wrong(Speculative):
    def generate(self, session, request):
        first = True
        for step in super().generate(session, request):
            yield [3 if step[0] != 3 else 4, *step[1:]] if first else step
            first = False
'''
FAILING = BROKEN.replace('"changes-output"', '"lossless"')


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES, "_files", {})
    monkeypatch.setattr(TASKS, "_files", {})
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "words.py"
    path.write_text(TASK)
    return path


def settings(words: Path, **more: Any) -> RunConfig:
    given: dict[str, Any] = {"model": str(saved("llama")), "draft": str(saved("llama", 1)), "tasks": ("words",),
                             "plugins": (words,), "max_new_tokens": scaled(12, 24), "concurrency": 4, "threads": 1,
                             "device": "cpu", "strategies": ("speculative",)}
    return RunConfig(**{**given, **more})


def checker(words: Path, draws: int = 120, **more: Any) -> Checker:
    plan = make(settings(words, **more), "test")
    return Checker(plan, plan, draws)


@pytest.fixture(scope="module")
def nano() -> Checker:
    plan = make(RunConfig(tasks=("nano_story",), limit=scaled(1, 3), max_new_tokens=24, concurrency=8, threads=1,
                          device="cpu", strategies=("speculative",)), "test")
    return Checker(plan, plan, scaled(60, 120))


def under(cls: type[Speculative] | type[PromptLookup], each: Distribution) -> Strategy:
    return cls(temperature=each.temperature, p=each.p)


@pytest.mark.parametrize("cls", [planted.Siblings, *(pytest.param(cls, marks=pytest.mark.slow) for cls in (
    Speculative, PromptLookup))])  # tests/law has these two
@pytest.mark.parametrize("each", [pytest.param(HOT, marks=pytest.mark.slow), COOL], ids=str)
def test_correct_strategies_keep_the_distribution(nano: Checker, cls: type[Speculative], each: Distribution) -> None:
    finding = nano.sampled(under(cls, each), each)
    assert (finding.ok, finding.impossible, finding.failed) == (True, 0, 0)
    assert finding.p_value is not None
    assert finding.p_value > 1e-3
    assert (finding.tau or 0) > 1.02  # drafts were accepted, so that what is tested is not plain sampling


@pytest.mark.parametrize(("cls", "each"), [
    (planted.Resorted, COOL), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (
        (planted.SoftQ, HOT), (planted.UnwarpedBonus, COOL), (planted.Discarded, HOT))),
], ids=lambda value: getattr(value, "__name__", str(value)))
def test_planted_distributions_are_detected(nano: Checker, cls: type[Speculative], each: Distribution) -> None:
    before, nano.draws = nano.draws, 400 if cls in (planted.UnwarpedBonus, planted.Discarded) else scaled(150, 200)
    finding = nano.sampled(under(cls, each), each)
    nano.draws = before
    assert finding.p_value is not None
    assert finding.p_value < 1e-4
    rejected = adjusted([finding])[0]
    assert not rejected.ok
    assert rejected.verdict == ("impossible tokens" if finding.impossible else "distribution rejected")


def test_drawing_from_p_after_a_rejection_is_caught(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic mistake; nano's draft model is so good that it would hide it."""
    monkeypatch.setattr(accept, "_normal", lambda rest, p: p)
    finding = checker(words).sampled(under(Speculative, HOT), HOT)
    assert (finding.p_value or 0) < 1e-4
    assert min(finding.tests, key=lambda name: finding.tests[name]) == "overlap"


def test_a_tiny_pair_is_told_apart_too(words: Path) -> None:
    """A random draft model is mostly turned down; what is left of p then decides."""
    check = checker(words)
    for cls, low, high in ((Speculative, 1e-3, 1.1), (planted.SoftQ, -1, 1e-4)):
        assert low < (check.sampled(under(cls, HOT), HOT).p_value or 0) < high


def test_one_wrong_token_is_found(words: Path) -> None:
    check = checker(words)
    finding = check.exact(planted.WrongOnce())
    assert (finding.verdict, finding.ok, finding.prefix) == ("wrong token", False, 8)
    assert finding.same == finding.total - len(finding.partings)
    first = finding.partings[0]
    assert (first.turn, first.at, first.cause) == (0, 8, "algorithm")
    assert first.margin == pytest.approx(first.off, abs=1e-3)


def test_close_logits_are_a_tie(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIE", 1e6)
    finding = checker(words).exact(planted.WrongOnce())
    assert (finding.verdict, finding.ok, finding.partings[0].cause) == ("same except ties", True, "tie")


def test_state_that_is_kept_is_found(words: Path) -> None:
    check = checker(words)
    assert check.exact(Speculative()).again is None
    finding = check.exact(planted.Leaky())
    assert (finding.verdict, finding.ok, finding.same) == ("keeps state", False, finding.total)
    assert finding.again in {"forwards", "positions", "drafted", "tokens"}


@dataclass(frozen=True)
class Quitter(Speculative):
    """Ends by itself."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        for step, _ in zip(super().generate(session, request), range(2), strict=False):
            yield step


def test_an_answer_that_ends_by_itself_is_wrong(words: Path) -> None:
    check = checker(words)
    finding = check.exact(Quitter())
    assert (finding.verdict, finding.partings[0].margin) == ("wrong token", None)
    drawn = check.sampled(Quitter(temperature=1.0), HOT)
    assert (drawn.verdict, drawn.ok, drawn.failed) == ("failed", False, 120)
    assert "ended by itself after" in (drawn.error or "")


def test_a_shorter_context_is_the_stop_rule(words: Path) -> None:
    """The draft model reads less than the target: the answers end earlier, and are the same up to there."""
    check = checker(words, max_new_tokens=24)
    assert check.plan.draft is not None
    check.plan.draft.engine.max_len = 20
    finding = check.exact(Speculative())
    assert (finding.verdict, finding.ok) == ("same except where it stops", True)


def test_another_dtype_is_replayed_in_float32(words: Path) -> None:
    report = verify(settings(words, dtype="bfloat16", strategies=("speculative",)), distributions=())
    assert report.ok, report.findings
    plan = make(settings(words, dtype="bfloat16"), "test")
    check = Checker(plan, make(settings(words), "test"), 1)
    assert check.exact(planted.WrongOnce()).verdict == "wrong token"


def test_no_float32_copy_of_a_large_model(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "COPIED", 1)
    loaded, load = list[str](), loading.load
    monkeypatch.setattr(loading, "load", lambda *names, **more: loaded.append(more["dtype"]) or load(*names, **more))
    report = verify(settings(words, dtype="bfloat16", strategies=("speculative",)), [HOT], draws=8)
    assert report.ok, report.findings
    assert loaded == ["bfloat16", "bfloat16"]
    assert [finding.temperature for finding in report.findings] == ["0", "0"]
    assert "no float32 copy was loaded: no distribution was tested" in shown.notes(report)[-1]
    assert "of bfloat16 explains" in shown.notes(report)[-1]
    plan = make(settings(words, dtype="bfloat16"), "test")
    assert Checker(plan, None, 1).exact(planted.WrongOnce()).verdict == "wrong token"


def test_a_float32_model_is_loaded_once(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "COPIED", 1)
    for dtype in (None, "float32"):
        plan = make(settings(words, dtype=dtype), "test")
        assert plans.in_float32(plan) is plan
    assert not verify(settings(words, strategies=("speculative",)), distributions=()).warnings


def test_nothing_depends_on_concurrency(words: Path) -> None:
    one, many = (verify(settings(words, concurrency=n), distributions=[HOT], draws=scaled(16, 40)) for n in (1, 7))
    for a, b in zip(one.findings, many.findings, strict=True):
        assert a.model_dump(exclude={"p_value", "adjusted", "tests", "shares"}) == \
            b.model_dump(exclude={"p_value", "adjusted", "tests", "shares"})
        assert (a.p_value or 0) == pytest.approx(b.p_value or 0, abs=1e-3)


def test_what_cannot_be_checked_is_listed(words: Path) -> None:
    report = verify(settings(words, draft=None, strategies=("speculative", "beam", "prompt_lookup")), distributions=())
    assert report.skipped == {"beam": module.NO_GUARANTEE, "speculative": "needs a draft model: give one with --draft"}
    assert [Spec.parse(finding.strategy).name for finding in report.findings] == ["greedy", "prompt_lookup"]
    assert report.ok


def test_a_distribution_of_the_users_own(words: Path) -> None:
    report = verify(settings(words, strategies=("prompt_lookup:temperature=0.5,p=0.8",)), draws=8)
    assert [finding.temperature for finding in report.findings] == ["0", "0", "0.5, p=0.8"]


@pytest.mark.parametrize("arch", ARCHS)
def test_distributions_are_those_of_a_plain_forward(arch: str) -> None:
    target = engine(tiny_model(arch))
    for prompt in ([5], [5, 6, 7, 5]):
        texts = [[5, 9, 3], [8, 8, 8]]
        for row, text in zip(distribution._continuation_logits(target, prompt, texts), texts, strict=True):
            assert torch.allclose(row, uncached_logits(target, [*prompt, *text], 3), atol=1e-4)


def test_groups_of_copies() -> None:
    """4 was followed by 5 and then by 6; 7 is new."""
    groups = distribution._copy_groups(torch.tensor([[4, 5, 4, 6, 4, 7]]), 2, 9)[0].tolist()
    assert groups[1] == [3, 3, 3, 3, 2, 1, 0, 3, 3]
    assert groups[0] == [3, 3, 3, 3, 2, 2, 2, 3, 3]


def test_plain_sampling_passes_as_often_as_it_should() -> None:
    """p-values of correct draws are not small too often, over many seeds, each with its own draws."""
    target, prompt, found = engine(tiny_model("llama", vocab=40, sharpness=1.0)), [5, 6, 7], list[float]()
    for seed in range(scaled(30, 60)):
        rng, texts = torch.Generator().manual_seed(seed), [list[int]() for _ in range(60)]
        for _ in range(6):
            logits = distribution._continuation_logits(target, prompt, [[*t, 0] for t in texts])
            rows = torch.stack([row[-1] for row in logits])
            for text, token in zip(texts, COOL.probs(rows).multinomial(1, generator=rng)[:, 0].tolist(), strict=True):
                text.append(token)
        evidence = Evidence(COOL)
        evidence.add(target, None, prompt, texts, seed)
        assert evidence.impossible == 0
        found += evidence.tests().values()
    assert 0.02 < np.mean(np.array(found) < 0.1) < 0.18
    assert min(found) > 1e-5


def test_the_edge_of_a_nucleus_is_no_impossible_token() -> None:
    """0.5 + 0.4 reaches 0.9 or just does not: the third token is left out of the tests, not held against anyone."""
    target, evidence = engine(tiny_model("llama", vocab=40)), Evidence(Distribution(1.0, 0.9))
    logits = torch.tensor([0.5 + 1e-6, 0.4, 0.1 - 1e-6]).log().expand(2, 1, 3)
    evidence._add_batch(logits, None, torch.tensor([[0, 2], [0, 1]]), 0, np.random.default_rng(0))
    assert (evidence.impossible, evidence.edge, evidence.tokens) == (0, 1, 2)
    evidence = Evidence(Distribution(1.0, 0.8))
    evidence._add_batch(logits, None, torch.tensor([[0, 2], [0, 1]]), 0, np.random.default_rng(0))
    assert (evidence.impossible, evidence.p_value()) == (1, 0.0)
    assert target.forwards == 0


def test_the_tests_themselves() -> None:
    rng = np.random.default_rng(0)
    assert uniform(rng.random(500)) > 0.01 > 1e-6 > uniform(rng.random(500) ** 1.5)
    walk = rng.random((300, 1)).repeat(2, 1)
    assert independent(rng.random((300, 2))) > 0.01 > 1e-6 > independent(walk)
    shares = Shares(("a", "b", "c"))
    mass = rng.dirichlet((3, 2, 1), 500)
    shares.add(mass, np.array([rng.choice(3, p=row) for row in mass]))
    assert shares.p_value() > 0.01
    shares.add(mass, np.array([rng.choice(3, p=np.add(row, [1, 0, 0]) / 2) for row in mass]))
    assert shares.p_value() < 1e-6
    assert Shares(("a", "b")).p_value() == 1.0
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert any_of([0.01, 0.5]) == pytest.approx(0.02)


def options(words: Path, *more: object) -> Sequence[object]:
    return ["verify", "-m", saved("llama"), "--draft", saved("llama", 1), "-t", "words", "--plugin", words,
            "--max-new-tokens", 16, "--draws", 12, "--device", "cpu", "--threads", 1, *more]


def test_the_command_passes_what_is_right(words: Path, tmp_path: Path) -> None:
    done = call(*options(words, "-s", "speculative", "-o", tmp_path / "out", "--json", tmp_path / "found.json",
                         "--temperature", "0.8,p=0.95"))
    assert done.exit_code == 0, done.output
    assert "all 3 checks passed" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 100
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads((tmp_path / "out" / "verify.json").read_text())
    assert [(each["temperature"], each["verdict"]) for each in found["findings"]] == \
        [("0", "same tokens"), ("0", "same tokens"), ("0.8, p=0.95", "distribution kept")]
    page = (tmp_path / "out" / "verify.html").read_text()
    assert "<html" in page
    assert "same tokens" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(("name", "text", "words_said"), [("wrong", WRONG, "wrong token"),
                                                          ("failing", FAILING, "RuntimeError: on purpose")])
def test_the_command_fails_what_is_not(words: Path, tmp_path: Path, name: str, text: str, words_said: str) -> None:
    (tmp_path / f"{name}.py").write_text(text)
    done = call(*options(words, "--plugin", tmp_path / f"{name}.py", "-s", name, "--temperature", 0))
    assert done.exit_code == 1, done.output
    assert "1 of 2 checks failed" in done.stdout
    assert words_said in done.stdout


@pytest.mark.parametrize(("arguments", "said"), [
    (["--draws", 0], "--draws must be at least 1, not 0."),
    (["--limit", 0], "--limit must be at least 1, not 0."),
    (["--backend", "openai", "--plain-url", "http://x/v1"],
     "--backend openai needs the address of a server: --base-url http://localhost:8000/v1."),
    (["--temperature", "warm"], "Write --temperature as T or T,p=P, such as 0.7,p=0.9, not 'warm'."),
    (["--temperature", "-1"], "--temperature must be from 0 to 10, and p above 0 and at most 1, not '-1'."),
    (["-s", "speculativ"], "There is no strategy 'speculativ'. Did you mean 'speculative'?"),
])
def test_wrong_input_is_one_sentence(arguments: list[object], said: str) -> None:
    done = call("verify", *arguments)
    assert (done.exit_code, done.stderr.strip()) == (2, f"Error: {said}")


def test_texts_of_a_finding_fit_and_are_escaped() -> None:
    finding = StrategyResult(strategy="speculative:temperature=0,p=1,gamma=4", temperature="0", verdict="failed",
                             ok=False, total=3, same=0, failed=3, error="ValueError: <b>[red]no[/red]</b>")
    report = Report(model="nano", draft=None, dtype="float32", concurrency=8, seed=0, tokens=1,
                    findings=[finding, replace_spec(finding, 8)], skipped={"x": "<i>"})
    assert shown.result_labels(report.findings) == ["speculative:gamma=4", "speculative:gamma=8"]
    assert "<b>" not in shown.html(report)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown.terminal(report))
    assert "[red]no[/red]" in console.export_text()


def replace_spec(finding: StrategyResult, gamma: int) -> StrategyResult:
    return finding.model_copy(update={"strategy": f"speculative:temperature=0,p=1,gamma={gamma}"})


def test_a_strategy_without_temperature_is_checked_at_zero_only(words: Path) -> None:
    report = verify(replace(settings(words), strategies=("greedy",)))
    assert [finding.temperature for finding in report.findings] == ["0"]


def test_a_strategy_that_cannot_run_is_not_checked_and_says_why(words: Path) -> None:
    report = verify(settings(words, strategies=("rest", "layer_skip")), (HOT,), 4)
    assert "rest:store=FILE" in report.skipped["rest"]  # its store is of other words
    assert report.ok


def test_a_rule_over_a_drafter_that_makes_trees_is_a_cell_with_a_reason(words: Path) -> None:
    plan = make(settings(words, strategies=("fly:over=specinfer", "speculative")), "test")
    reasons = {entry.name: entry.unsupported for entry in plan.manifest.strategies}
    assert "chain" in (reasons["fly"] or "")
    assert reasons["speculative"] is None
