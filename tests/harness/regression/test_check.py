"""Rules of a check: each planted fault is found by its rule, by no other, and said with its cell and its size."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from harness.errors import UserError
from harness.regression.check import Finding, Report, check
from harness.regression.rules import (
    DEFAULT,
    Acceptance,
    AnyRule,
    Complete,
    Counts,
    Lossless,
    Quality,
    Speed,
    Tau,
    Tokens,
    read,
)
from harness.regression.rules import Truncated as TruncatedRule
from harness.regression.snapshot import Snapshot, difference
from harness.store.computed import Sizes
from harness.store.folder import Store
from harness.store.schema import Divergence, Record
from tests import runs
from tests.scale import scaled

GREEDY, DRAFTING, BEAM = "greedy", "speculative:k=2", "beam:width=2"
SIZES = Sizes(**dict.fromkeys(Sizes.model_fields, 1))
MATHS = runs.task("maths", examples=12)
Change = Callable[[Record], Record]


def made(folder: Path, change: Change = lambda record: record, examples: int = 12, noise: int | None = None) -> Store:
    """A run of three strategies on two tasks; `noise` seeds times that vary by 2 %, else they do not vary."""
    entries = [runs.strategy(GREEDY), runs.strategy(DRAFTING, "speculative"),
               runs.strategy(BEAM, "search", "changes-output")]
    records = []
    for task in ("maths", "words"):
        for number in range(examples):
            ids = list(range(number, number + 9))
            for spec, steps in ((GREEDY, [1] * 9), (DRAFTING, [1, 3, 3, 2]), (BEAM, [9])):
                own = [*ids[:-1], 99] if spec == BEAM else ids
                rng = np.random.default_rng([noise or 0, number, len(spec), len(task)])
                times = [0.01 * float(np.exp(0.02 * rng.normal() if noise else 0.0)) for _ in steps]
                one = runs.turn(steps, times, ids=own, drafted=[0, 2, 2, 2] if spec == DRAFTING else (),
                                accepted=[0, 2, 2, 1] if spec == DRAFTING else ())
                records.append(runs.record(task, str(number), spec, [one], score=float(number % 4 > 0)))
    manifest = runs.manifest(entries, [runs.task("maths", examples=examples), runs.task("words", examples=examples)])
    return runs.write(folder, manifest, [change(record) for record in records])


@cache
def unchanged(examples: int = 12) -> Snapshot:
    """The run that nothing was changed in."""
    with TemporaryDirectory() as folder:
        return Snapshot.of(made(Path(folder) / "base", examples=examples))


def at(task: str, strategy: str, change: Change, examples: Sequence[str] = ("3",)) -> Change:
    """A change of these examples of one cell."""
    return lambda record: change(record) if (record.task, record.strategy) == (task, strategy) and (
        record.example in examples or not examples) else record


def steps(record: Record, **changed: list[float]) -> Record:
    turn = record.turns[0]
    return record.model_copy(update={"turns": [turn.model_copy(update={
        "steps": turn.steps.model_copy(update=changed)})]})


def wrong_token(record: Record) -> Record:
    turn = record.turns[0]
    return record.model_copy(update={"turns": [turn.model_copy(update={"tokens": [*turn.tokens[:4], 77,
                                                                                  *turn.tokens[5:]]})]})


def one_more_forward(record: Record) -> Record:
    old = record.turns[0].steps.forwards
    return steps(record, forwards=[*old[:-1], old[-1] + 1])


def slower(share: float) -> Change:
    def change(record: Record) -> Record:
        new = steps(record, seconds=[second * (1 + share) for second in record.turns[0].steps.seconds])
        return new.model_copy(update={"seconds": record.seconds * (1 + share)})
    return change


def scored(value: float) -> Change:
    return lambda record: record.model_copy(update={"scores": {"accuracy": value}})


def failed(record: Record) -> Record:
    return runs.record(record.task, record.example, record.strategy, error="RuntimeError: on purpose")


def checked(tmp_path: Path, change: Change, rules: Sequence[AnyRule] = DEFAULT, **options: int) -> Report:
    run = made(tmp_path / "run", change, **options)
    return check(Snapshot.of(run), unchanged(**options), rules, ("run", "base"), run.divergences())


def broken(report: Report) -> dict[tuple[str, str, str], str]:
    return {(one.kind, one.task, one.strategy): one.message for one in report.broken}


def test_an_equal_run_keeps_every_rule(tmp_path: Path) -> None:
    report = checked(tmp_path, lambda record: record)
    assert report.broken == []
    assert {one.status for one in report.findings} == {"kept"}
    kinds = [one.kind for one in report.findings]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "complete": 6, "counts": 6, "tokens": 6, "lossless": 2, "scores": 6, "quality": 6}


def test_a_wrong_token_of_a_lossless_strategy_breaks_tokens_and_lossless(tmp_path: Path) -> None:
    assert broken(checked(tmp_path, at("words", DRAFTING, wrong_token))) == {
        ("tokens", "words", DRAFTING): "different tokens on 3; 1 of 12 samples",
        ("lossless", "words", DRAFTING): "tokens differ from those of greedy on 3; 1 of 12 samples"}


def test_a_wrong_token_of_any_strategy_breaks_tokens(tmp_path: Path) -> None:
    assert broken(checked(tmp_path, at("maths", BEAM, wrong_token, ("3", "7")))) == {
        ("tokens", "maths", BEAM): "different tokens on 3; 2 of 12 samples"}


def test_the_place_and_the_margin_of_a_parting_are_said_and_a_tie_may_be_allowed(tmp_path: Path) -> None:
    base, run = made(tmp_path / "base"), made(tmp_path / "run", at("words", DRAFTING, wrong_token))
    for gap, words in ((4e-6, ": logits 4e-06 apart, a tie that rounding decides"), (0.5, ": logits 0.5 apart"),
                       (None, ": one answer ends there")):
        run.write_divergences([Divergence(task="words", example="3", strategy=DRAFTING, sample=0, repeat=0, turn=0,
                                          at=4, margin=gap)])
        strict, loose = (check(Snapshot.of(run), Snapshot.of(base), [Lossless(tie=tie)], ("a", "b"), run.divergences())
                         for tie in (0.0, 1e-3))
        assert broken(strict) == {("lossless", "words", DRAFTING): "tokens differ from those of greedy on 3, turn 1, "
                                                                   f"token 5{words}; 1 of 12 samples"}
        assert len(loose.broken) == (gap != 4e-6)


def test_one_more_forward_is_found(tmp_path: Path) -> None:
    assert broken(checked(tmp_path, at("maths", DRAFTING, one_more_forward))) == {
        ("counts", "maths", DRAFTING): "forwards 5 instead of 4 on 3; 1 of 12 samples, 49 instead of 48 in all"}


def test_other_counts_are_named_and_some_may_be_left_out(tmp_path: Path) -> None:
    change = at("maths", DRAFTING, lambda record: steps(record, accepted=[0, 2, 1, 1], positions=[1, 3, 3, 4]))
    [message] = broken(checked(tmp_path / "a", change)).values()
    assert message == ("positions 11 instead of 10 on 3; 1 of 12 samples, 121 instead of 120 in all "
                       "(also changed: accepted)")
    [message] = broken(checked(tmp_path / "b", change, [Counts(counts=["accepted", "forwards"])])).values()
    assert message.startswith("accepted 4 instead of 5 on 3")
    assert not checked(tmp_path / "c", change, [Counts(counts=["tokens"])]).broken


def test_a_lower_score_of_the_same_tokens_is_found_by_itself(tmp_path: Path) -> None:
    assert broken(checked(tmp_path, at("words", BEAM, scored(0.0)))) == {
        ("scores", "words", BEAM): "accuracy 0 instead of 1 for the same tokens on 3; 1 of 12 samples"}


def test_a_significant_fall_of_quality_is_found_and_said_with_its_p_value(tmp_path: Path) -> None:
    right = [str(i) for i in range(12) if i % 4]
    found = broken(checked(tmp_path, at("words", BEAM, scored(0.0), right), [Quality(level=0.05)]))
    # nine of nine pairs fall: one-sided 2^-9, times the six cells of the family
    assert found == {("quality", "words", BEAM): "accuracy 0.000 instead of 0.750 (-0.750); of 12 samples 9 are worse "
                                                 f"and 0 better; p = {6 / 2 ** 9:.2g} (Holm)"}


@pytest.mark.parametrize(("rule", "fallen", "expected"), [
    (Quality(level=0.05), 6, False), (Quality(level=0.05), 7, True),  # 6 / 2^6 = 0.094, 6 / 2^7 = 0.047
    (Quality(tolerance=0.5), 6, False), (Quality(tolerance=0.5), 7, True),
    (Quality(tolerance=0.0), 0, False), (Quality(tolerance=0.0), 1, True),
    (Quality(tolerance=0.6, level=0.05), 7, False), (Quality(tolerance=0.6, level=0.05), 8, True),
    (Quality(tolerance=0.1, level=0.05), 4, False)])
def test_tolerance_and_level_of_quality(rule: Quality, fallen: int, expected: bool, tmp_path: Path) -> None:
    right = [str(i) for i in range(12) if i % 4][:fallen]
    report = checked(tmp_path, at("words", BEAM, scored(0.0), right) if right else lambda record: record, [rule])
    assert bool(report.broken) == expected


def test_few_examples_say_that_they_cannot_show_a_fall(tmp_path: Path) -> None:
    report = checked(tmp_path, at("words", BEAM, scored(0.0), "2"), [Quality(level=0.05)], examples=3)
    [one] = [one for one in report.findings if one.status != "kept"]
    assert (one.status, one.task, one.strategy) == ("unchecked", "words", BEAM)
    assert one.message == ("3 examples are too few for a test of quality; use at least 6, or a "
                                          "tolerance")


def test_failed_missing_and_unfinished_cells_are_found(tmp_path: Path) -> None:
    assert broken(checked(tmp_path / "a", at("maths", BEAM, failed, ("3", "4")))) == {
        ("complete", "maths", BEAM): "2 of 12 samples failed, the first on 3"}
    assert not checked(tmp_path / "b", at("maths", BEAM, failed, ("3", "4")), [Complete(failed=2)]).broken
    base, run = made(tmp_path / "base"), made(tmp_path / "run")
    kept = [record for record in run.records() if record.strategy != BEAM and record.example != "5"]
    small = runs.write(tmp_path / "small", runs.manifest(run.manifest.strategies[:2], run.manifest.tasks), kept)
    found = broken(check(Snapshot.of(small), Snapshot.of(base), DEFAULT, ("a", "b")))
    assert found["complete", "words", BEAM] == "in the baseline, but not in the run"
    assert found["complete", "words", GREEDY].startswith("the run has 11 of 12 samples; ")
    assert len(found) == 6, "nothing else is wrong with what is there"


def test_what_only_the_run_has_is_noted(tmp_path: Path) -> None:
    run, base = made(tmp_path / "run"), made(tmp_path / "base")
    less = runs.write(tmp_path / "less", runs.manifest(base.manifest.strategies[:2], base.manifest.tasks),
                      [record for record in base.records() if record.strategy != BEAM])
    report = check(Snapshot.of(run), Snapshot.of(less), DEFAULT, ("run", "less"))
    assert report.notes == [f"{BEAM} is not in the baseline"]
    assert {one.kind for one in report.findings if one.strategy == BEAM} == {"complete"}


def test_tau_acceptance_and_truncation_have_tolerances(tmp_path: Path) -> None:
    worse = at("maths", DRAFTING, lambda record: steps(record, tokens=[1, 2, 2, 2, 2], accepted=[0, 1, 1, 1, 1],
                                                       drafted=[0, 2, 2, 2, 2]), ())
    found = broken(checked(tmp_path / "a", worse, [Tau(), Acceptance()]))
    assert found == {("tau", "maths", DRAFTING): "tau 2.000 instead of 2.667 (-0.667)",
                     ("acceptance", "maths", DRAFTING):
                         "accepted share of drafted tokens 0.500 instead of 0.833 (-0.333)"}
    assert not checked(tmp_path / "b", worse, [Tau(tolerance=0.26), Acceptance(tolerance=0.34)]).broken
    cut = at("words", GREEDY, lambda record: record.model_copy(update={"turns": [
        record.turns[0].model_copy(update={"stop": "length"})]}), ("1", "2", "3"))
    assert broken(checked(tmp_path / "c", cut, [TruncatedRule(tolerance=0.2)])) == {
        ("truncated", "words", GREEDY): "25 % of the answers are truncated instead of 0 %"}
    assert not checked(tmp_path / "d", cut, [TruncatedRule(tolerance=0.25)]).broken


def test_tau_may_have_bounds(tmp_path: Path) -> None:
    """The tau of both tasks is 2.667 in the run and in the baseline."""
    def told(name: str, **bounds: float) -> dict[tuple[str, str, str], str]:
        rule = Tau(strategies=["speculative"], tasks=["maths"], **bounds)  # type: ignore[arg-type]
        return broken(checked(tmp_path / name, lambda record: record, [rule]))
    key = "tau", "maths", DRAFTING
    assert told("a", at_least=2.6, at_most=2.7) == {}
    assert told("b", at_least=2.7) == {key: "tau 2.667; the minimum is 2.7"}
    assert told("c", at_most=2.6) == {key: "tau 2.667; the maximum is 2.6"}
    worse = at("maths", DRAFTING, lambda record: steps(record, tokens=[1, 2, 2, 2, 2], accepted=[0, 1, 1, 1, 1],
                                                       drafted=[0, 2, 2, 2, 2]), ())
    assert not checked(tmp_path / "d", worse, [Tau(at_least=1.9)]).broken  # greedy does not draft
    assert broken(checked(tmp_path / "e", worse, [Tau(at_least=1.9, tolerance=0.1)])) == {
        key: "tau 2.000 instead of 2.667 (-0.667)"}


def test_bounds_of_tau_need_no_baseline(tmp_path: Path) -> None:
    run, base = made(tmp_path / "run"), made(tmp_path / "base")
    less = runs.write(tmp_path / "less", runs.manifest(base.manifest.strategies[:1], base.manifest.tasks),
                      [record for record in base.records() if record.strategy == GREEDY])
    rules = [Tau(strategies=["speculative"], at_least=9)]
    report = check(Snapshot.of(run), Snapshot.of(less), rules, ("run", "less"))
    assert {one.status for one in report.findings} == {"broken"}
    assert {one.strategy for one in report.findings} == {DRAFTING}


def timed(tmp_path: Path, change: Change, rule: Speed, seeds: tuple[int, ...] = (1, 2), examples: int = 40) -> Report:
    """A run against a baseline with other noise, and a second one that confirms when there are three seeds."""
    base, *others = (made(tmp_path / str(seed), change if place else lambda record: record, examples, seed)
                     for place, seed in enumerate(seeds))
    again = Snapshot.of(others[1]) if len(others) > 1 else None
    return check(Snapshot.of(others[0]), Snapshot.of(base), [rule], ("run", "base"), confirm=again)


def test_a_slower_strategy_is_found_relative_to_the_own_baseline(tmp_path: Path) -> None:
    found = broken(timed(tmp_path / "a", at("maths", DRAFTING, slower(0.08), ()), Speed(worse_by=0.03)))
    assert list(found) == [("speed", "maths", DRAFTING)]
    assert found["speed", "maths", DRAFTING].startswith("speed-up 2.0")
    assert " %); 2.25 before, at most 3 % less is allowed; p = 0.000" in found["speed", "maths", DRAFTING]
    everything = timed(tmp_path / "b", slower(0.5), Speed(worse_by=0.03))
    assert not everything.broken, "a machine that is slower for all is not the strategy's fault"


def test_a_speed_up_may_be_asked_for_without_the_baselines(tmp_path: Path) -> None:
    assert not timed(tmp_path / "a", lambda record: record, Speed(at_least=2.2, strategies=["speculative"])).broken
    [message] = broken(timed(tmp_path / "b", at("words", DRAFTING, lambda record: record),
                             Speed(at_least=2.4, strategies=["speculative"], tasks=["words"]))).values()
    assert "(-6.3 %); the minimum is 2.4; p = " in message


def test_equal_speed_is_seldom_called_slower(tmp_path: Path) -> None:
    """At level 0.05 with Holm over four cells of each pair of runs, 24 pairs have 1.2 false alarms; 5 are too many."""
    rule, alarms = Speed(worse_by=0.0, level=0.05), 0
    for seed in range(pairs := scaled(8, 24)):
        alarms += bool(timed(tmp_path / str(seed), lambda record: record, rule, (100 + seed, 200 + seed), 8).broken)
    assert alarms <= pairs / 6


def test_a_second_run_must_confirm(tmp_path: Path) -> None:
    base, run, fine = made(tmp_path / "base", noise=1), made(tmp_path / "run", slower_drafts, noise=2), \
        made(tmp_path / "fine", noise=3)
    rule = [Speed(worse_by=0.05)]
    alone, cleared, confirmed = (check(Snapshot.of(run), Snapshot.of(base), rule, ("run", "base"), confirm=again)
                                 for again in (None, Snapshot.of(fine), Snapshot.of(run)))
    assert (len(alone.broken), len(cleared.broken), len(confirmed.broken)) == (2, 0, 2)
    assert sum("not confirmed" in one.message for one in cleared.findings) == 2
    assert all("also in the second run: speed-up" in one.message for one in confirmed.broken)


def slower_drafts(record: Record) -> Record:
    return slower(0.3)(record) if record.strategy == DRAFTING else record


def test_times_of_other_hardware_are_not_compared_unless_told_to(tmp_path: Path) -> None:
    base, run = unchanged(), Snapshot.of(made(tmp_path / "run", slower_drafts))
    other = Snapshot(base.about.model_copy(update={"hardware": {"cpu": "another"}}), base.cells)
    report = check(run, other, [Speed(worse_by=0.05)], ("run", "base"))
    assert {one.status for one in report.findings} == {"unchecked"}
    assert "other hardware" in report.findings[0].message
    assert len(check(run, other, [Speed(worse_by=0.05, other_hardware=True)], ("run", "base")).broken) == 2


def test_an_unknown_tokenizer_is_that_of_any_run() -> None:
    """As in baselines of older versions, and in runs that were imported."""
    about = unchanged().about
    known = [about.model_copy(update={"model": runs.MODEL.model_copy(update={"tokenizer": name})}) for name in "ab"]
    assert [difference(known[0], about), difference(about, known[0]), difference(known[0], known[0])] == ["", "", ""]
    sized = about.model_copy(update={"model": runs.MODEL.model_copy(update={"sizes": SIZES})})
    assert [difference(sized, about), difference(about, sized)] == ["", ""], "older baselines have no sizes, either"
    assert difference(*known) == ("the model is nano (float32, 5f0c1d2e, tokenizer a), not nano (float32, 5f0c1d2e, "
                                  "tokenizer b)")


@pytest.mark.parametrize(("change", "words"), [
    ({"model": runs.MODEL.model_copy(update={"fingerprint": "6"})}, "the model is nano (float32, 5f0c1d2e), not nano"),
    ({"draft": runs.MODEL}, "the draft is none, not nano"),
    ({"config": {"seed": 1}}, "'seed' is 0, not 1"),
    ({"baseline": BEAM}, "the baseline strategy is greedy, not beam"),
    ({"tasks": [runs.task("maths").model_copy(update={"version": 2})]}, "maths has version 1, not 2"),
    ({"tasks": [runs.task("maths", examples=3)]}, "maths has 12 examples, not 3"),
    ({"tasks": [MATHS.model_copy(update={"data_hash": "f"})]}, "maths has different examples"),
    ({"tasks": [MATHS.model_copy(update={"max_new_tokens": 9})]}, "maths stops at 64 tokens, not 9"),
])
def test_runs_that_cannot_be_compared_are_refused(change: dict[str, object], words: str) -> None:
    run = unchanged()
    other = Snapshot(run.about.model_copy(update=change), run.cells)
    with pytest.raises(UserError, match="cannot be compared with base: ") as error:
        check(run, other, DEFAULT, ("run", "base"))
    assert words in str(error.value)


def test_a_setting_of_a_newer_version_and_another_machine_do_not_matter() -> None:
    run = unchanged()
    other = Snapshot(run.about.model_copy(update={"config": {"seed": 0, "new": 1}, "hardware": None}), run.cells)
    assert not check(run, other, DEFAULT, ("run", "base")).broken


def test_a_snapshot_reads_back_as_it_was(tmp_path: Path) -> None:
    store = made(tmp_path / "run", at("maths", BEAM, failed), noise=1)
    whole = Snapshot.of(store)
    (tmp_path / "base.json").write_text(whole.text(), encoding="utf-8")
    again = Snapshot.open(tmp_path / "base.json")
    assert again.about == whole.about
    assert again.text() == whole.text()
    assert not check(whole, again, [*DEFAULT, Complete(failed=1)], ("a", "b")).broken
    assert "NaN" not in whole.text()
    row = again.cell("maths", DRAFTING).iloc[0]
    assert (row["example"], row["tokens"], row["forwards"], row["positions"], row["drafted"], row["accepted"]) == (
        "0", 9, 4, 10, 6, 5)
    assert math.isclose(row["seconds"], whole.cell("maths", DRAFTING).iloc[0]["seconds"], rel_tol=1e-5)


def test_the_last_rule_that_fits_counts(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nkind = "tokens"\noff = true\nstrategies = ["beam*", "top_?"]\n'
                    '[[rule]]\nkind = "tokens"\ntasks = ["words"]\nstrategies = ["beam:width=2"]\n'
                    '[[rule]]\nkind = "speed"\nworse_by = 0.1\n')
    rules = read(file)
    assert rules[:len(DEFAULT)] == DEFAULT
    found = broken(checked(tmp_path, lambda record: wrong_token(record) if record.strategy == BEAM else record,
                           [rule for rule in rules if isinstance(rule, Tokens)]))
    assert list(found) == [("tokens", "words", BEAM)]


@pytest.mark.parametrize(("text", "words"), [
    ("rule = 3", "must contain only [[rule]] tables"), ("[other]", "tables, not 'other'"),
    ("[[rule]]", "rule 1 needs a kind. Known: acceptance, "),
    ('[[rule]]\nkind = "tokns"', "rule 1: there is no kind 'tokns'. Did you mean 'tokens'?"),
    ('[[rule]]\nkind = "tau"\ntolerence = 1', "rule 1 (tau) has no setting 'tolerence'. Did you mean 'tolerance'?"),
    ('[[rule]]\nkind = "tau"\ntolerance = 2.5', "rule 1 (tau): 'tolerance': Input should be less than or equal to 1"),
    ('[[rule]]\nkind = "counts"\ncounts = ["tokns"]', "rule 1 (counts): 'counts.0': Input should be 'tokens'"),
    ('[[rule]]\nkind = "quality"', "rule 1 (quality) needs a tolerance, a level, or both"),
    ('[[rule]]\nkind = "speed"', "rule 1 (speed) needs worse_by, at_least, or both"),
    ("kind =", "cannot be read as TOML")])
def test_a_wrong_rules_file_is_refused_in_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(UserError) as error:
        read(tmp_path / "rules.toml")
    assert words in str(error.value)
    with pytest.raises(UserError, match="There is no rules file"):
        read(tmp_path / "absent.toml")


def test_a_finding_holds_its_size_and_its_certainty(tmp_path: Path) -> None:
    found = timed(tmp_path, at("maths", DRAFTING, slower(0.08), ()), Speed(worse_by=0.03))
    one = next(one for one in found.findings if one.status == "broken")
    assert isinstance(one, Finding)
    assert one.by == pytest.approx(1 / 1.08 - 1, abs=0.015)
    assert one.p_value == pytest.approx(4e-4, rel=1), "four cells, ten thousand draws"
