"""Limits of the machine by hand: ideal speed-ups from given forward times, crossings, and measuring a tiny model."""

import json
import math
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.engine.engine import Engine
from harness.errors import UserError
from harness.measure.limits import _head_seconds, break_even, crossing, limits_table
from harness.measure.raw import read
from harness.measure.summary import summarise
from harness.models import trained_head
from harness.models.loading import fingerprint, load
from harness.plugins.spec import Spec
from harness.report import detail, texts
from harness.store.folder import Store
from harness.store.schema import ForwardTimes, HeadTimes, Limits, Record
from harness.verify import forwards
from harness.verify.forwards import copied_bytes_per_second, forward_seconds, measure
from tests.heads import untrained
from tests.models import tiny_model
from tests.pair import saved
from tests.program import call
from tests.runs import manifest, record, strategy, task, turn, write

GREEDY, SPEC, OWN = "greedy", "speculative:k=4", "swift"
STRATEGIES = [strategy(GREEDY), strategy(SPEC, "speculative"), strategy(OWN, "speculative")]
RECORDS = [
    record("math", "a", GREEDY, [turn([1, 1, 1, 1, 1], [9.0, 0.2, 0.2, 0.2, 0.2])]),
    # Forwards over 5, 3 and 1 tokens; the drafts are one forward of the draft model for each token.
    record("math", "a", SPEC, [turn([1, 4, 2, 1], [9.0, 0.3, 0.25, 0.2], drafted=[0, 4, 2, 0], accepted=[0, 3, 1, 0],
                                    draft_forwards=[0, 4, 2, 0])]),
    record("math", "a", OWN, [turn([1, 3], [9.0, 0.5], drafted=[0, 2], accepted=[0, 2], draft_forwards=[0, 2])]),
]
LIMITS = Limits(context=100, texts=1, hardware={}, drafting=[SPEC], bytes_per_second=1e6,
                target=ForwardTimes(tokens=[1, 3, 7], seconds=[0.1, 0.12, 0.2], weight_bytes=10_000, token_bytes=20),
                draft=ForwardTimes(tokens=[1, 7], seconds=[0.01, 0.02], weight_bytes=1_000, token_bytes=2))


def with_positions(one: Record) -> Record:
    """Each draft forward reads one token, as `turn` does not say."""
    steps = one.turns[0].steps
    whole = steps.model_copy(update={"draft_positions": steps.draft_forwards})
    return one.model_copy(update={"turns": [one.turns[0].model_copy(update={"steps": whole})]})


def made(folder: Path, records: list[Record] = RECORDS, limits: Limits | None = LIMITS, texts: int = 1) -> Store:
    described = manifest(STRATEGIES, [task("math")])
    described = described.model_copy(update={"config": {"concurrency": texts}})
    store = write(folder, described, [with_positions(one) for one in records])
    if limits:
        store.write_limits(limits)
    return store


def rows(store: Store) -> dict[str, Any]:
    return limits_table(store, read(store)).set_index("strategy").to_dict("index")


@pytest.mark.parametrize(("seconds", "said"), [([0.1, 0.071, 0.2], "by up to 1.41"), ([0.1, 0.098, 0.2], "")])
def test_a_baseline_that_is_slower_than_it_need_be_is_pointed_out(tmp_path: Path, seconds: list[float], said: str
                                                                   ) -> None:
    times = LIMITS.target.model_copy(update={"seconds": seconds})
    store = made(tmp_path / "run", limits=LIMITS.model_copy(update={"target": times}))
    (section,) = (one for one in detail.collect([store]).sections if one.kind is detail.LIMITS)
    assert len(section.notes) == bool(said)
    assert all(said in note and "a forward over 3 tokens takes 0.71 times" in note for note in section.notes)


def test_the_ideal_speedup_is_tau_over_what_forwards_cost(tmp_path: Path) -> None:
    found = rows(made(tmp_path / "run"))
    target, draft, steps = 0.16 + 0.12 + 0.1, 6 * 0.01, 3  # 5 tokens are halfway from 3 to 7
    wanted = {"tau": 7 / 3, "v": target / steps / 0.1, "draft_cost": draft / steps / 0.1,
              "ideal": 7 * 0.1 / (target + draft), "measured": (7 / 0.75) / (4 / 0.8),
              "explained": (target + draft) / 0.75}
    wanted["loss"] = 1 - wanted["measured"] / wanted["ideal"]
    wanted["perfect"] = (1 + (3 + 2 + 0) / 3) * steps * 0.1 / (target + draft)  # at most 3 were ever accepted
    assert {name: found[SPEC][name] for name in wanted} == pytest.approx(wanted)
    assert found[GREEDY]["ideal"] == pytest.approx(1) == found[GREEDY]["measured"]
    assert found[GREEDY]["explained"] == pytest.approx(0.5)


def test_the_oracle_and_the_bound(tmp_path: Path) -> None:
    found = rows(made(tmp_path / "run"))
    assert (found[SPEC]["oracle"], found[SPEC]["oracle_tokens"]) == pytest.approx((7 * 0.1 / 0.2, 7))
    each, drafted = 10_000 + 100 * 20, 1_000 + 100 * 2
    assert found[GREEDY]["bound"] == pytest.approx(1e6 / each)
    assert found[SPEC]["bound"] == pytest.approx(1e6 * 7 / (3 * each + 6 * drafted))
    assert found[GREEDY]["of_bound"] == pytest.approx(4 / 0.8 * each / 1e6)


def test_drafts_that_are_not_the_draft_models_have_no_known_cost(tmp_path: Path) -> None:
    own = rows(made(tmp_path / "run"))[OWN]
    assert own["tau"] == 3
    assert all(math.isnan(own[name]) for name in ("draft_cost", "ideal", "loss", "explained", "perfect"))


def test_the_drafts_of_a_head_have_a_first_step_and_later_ones(tmp_path: Path) -> None:
    head = HeadTimes(prompt=0.09, first=0.05, tokens=[1, 3], seconds=[0.01, 0.03], weight_bytes=500)
    one = with_positions(RECORDS[2])
    steps = one.turns[0].steps.model_copy(update={"draft_forwards": [0, 3], "draft_positions": [0, 6]})
    drafted = one.model_copy(update={"turns": [one.turns[0].model_copy(update={"steps": steps})]})
    store = write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), [RECORDS[0], drafted])
    store.write_limits(LIMITS.model_copy(update={"heads": {OWN: head}}))
    found, target, draft = rows(store)[OWN], 0.12, 0.09 + 2 * 0.02  # a forward over 3 tokens; later steps over 2
    assert found["draft_cost"] == pytest.approx(draft / 0.1)
    assert found["ideal"] == pytest.approx(3 * 0.1 / (target + draft))
    assert found["bound"] == pytest.approx(1e6 * 3 / (10_000 + 100 * 20 + 3 * 500))


def test_the_first_draft_of_a_sequence_reads_it_and_is_as_wide_as_others() -> None:
    head = HeadTimes(prompt=0.09, first=0.05, tokens=[1, 3], seconds=[0.01, 0.03], weight_bytes=500)
    steps = pd.DataFrame({"place": [1, 2, 3, 4], "draft_forwards": [3, 3, 3, 0], "draft_positions": [300, 6, 6, 0]})
    assert _head_seconds(head, steps) == pytest.approx(0.09 + 2 * 0.05 + 6 * 0.02)


def test_the_heads_of_a_run_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "ROUNDS", 2)
    model = load(str(saved("llama")))
    kinds = ("medusa", "eagle", "hidden_transfer")
    for kind in kinds:
        head = untrained(kind, model.engine)
        trained_head.save(tmp_path / kind, head.network, head.card.model_copy(update={
            "fingerprint": fingerprint(model.engine.model, rounded=True)}))
    done = call("run", "-m", saved("llama"), "-t", "nano_math", "-s", ",".join(f"{kind}:nodes=3" for kind in kinds),
                "--limit", 1, "--max-new-tokens", 6, "--threads", 1, "--device", "cpu", "-o", tmp_path / "run",
                *(option for kind in kinds for option in ("--head", tmp_path / kind)))
    assert done.exit_code == 0, done.output
    found = measure(store := Store.open(tmp_path / "run"), lambda text: None)
    medusa, eagle, transfer = (found.heads[entry.spec] for entry in store.manifest.strategies[1:])
    assert eagle.tokens == found.target.tokens
    assert medusa.tokens == transfer.tokens == [1]
    assert medusa.seconds == transfer.seconds == [0]
    assert eagle.weight_bytes == 4 * sum(one.numel() for one in untrained("eagle", model.engine).network.parameters())
    store.write_limits(found)
    costs = limits_table(store, read(store)).set_index("strategy")["draft_cost"]
    assert (costs > 0).tolist() == [False, True, True, True]


def test_several_texts_are_measured_end_to_end_and_share_the_weights(tmp_path: Path) -> None:
    records = [one.model_copy(update={"batch": 4.0}) for one in RECORDS]
    found = rows(made(tmp_path / "run", records, LIMITS.model_copy(update={"texts": 4}), texts=4))
    assert found[SPEC]["measured"] == pytest.approx((8 / 9.75) / (5 / 9.8))
    assert math.isnan(found[SPEC]["explained"])
    assert found[GREEDY]["bound"] == pytest.approx(1e6 / (10_000 / 4 + 2_000))


def test_runs_whose_limits_were_not_measured_have_no_table(tmp_path: Path) -> None:
    store = made(tmp_path / "run", limits=None)
    assert limits_table(store, read(store)).empty
    assert detail.limits([store]) == []


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    store = made(tmp_path / "run")
    (store.folder / "limits.json").write_text("{}")
    with pytest.raises(UserError, match=r"limits\.json: not limits \(.*\); remove it and measure again\.$"):
        store.limits()


@pytest.mark.parametrize(("speedups", "where", "falls"), [
    ({1: 2.0, 4: 0.5}, 2.0, True), ({1: 4.0, 2: 2.0, 32: 0.5}, math.sqrt(2 * 32), True),
    ({1: 0.5, 16: 2.0}, 4.0, False), ({1: 2.0, 8: 1.0, 64: 0.5}, 8.0, True), ({1: 1.2, 8: 1.1}, math.nan, True),
    ({1: 0.9, 8: 0.8}, math.nan, False)])
def test_a_crossing_is_interpolated_between_logarithms(speedups: dict[int, float], where: float, falls: bool) -> None:
    assert crossing({n: float(np.log(s)) for n, s in speedups.items()}) == (pytest.approx(where, nan_ok=True), falls)


def timed(seconds: float) -> list[Record]:
    """Greedy at 10 tokens a second, the other at 4 tokens in so many."""
    return [record("math", example, spec, [turn([4], [0.4 if spec == GREEDY else seconds])])
            for example in "ab" for spec in (GREEDY, SPEC)]


def test_break_even_is_said_in_words(tmp_path: Path) -> None:
    stores = [made(tmp_path / str(n), timed(seconds), None, n) for n, seconds in ((1, 0.2), (4, 0.8), (2, 0.3))]
    (row,) = break_even(stores, [summarise(store) for store in stores]).to_dict("records")
    wanted = {"speedup_at_1": 2.0, "speedup_at_2": 4 / 3, "speedup_at_4": 0.5}
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    share = math.log(4 / 3) / (math.log(4 / 3) - math.log(0.5))
    assert row["crossing"] == pytest.approx(2 * 2 ** share)
    (section,) = detail.limits(stores)
    assert section.notes == ("speculative on math is slower than the baseline above batch size 2.5",)
    assert "×1" in texts.markdown([section])
    assert detail.limits(stores[:1]) == []


def test_an_interval_by_batch_size_is_that_of_its_only_run(tmp_path: Path) -> None:
    noisy = [*timed(0.2)[:3], record("math", "b", SPEC, [turn([4], [0.3])])]
    stores = [made(tmp_path / str(name), records, None, size)
              for name, (size, records) in enumerate([(1, noisy), (4, noisy), (4, timed(0.8))])]
    summaries = [summarise(store) for store in stores]
    (row,) = break_even(stores, summaries).to_dict("records")
    alone = summaries[0].set_index("strategy").loc[SPEC]
    assert alone["speedup_low"] < alone["speedup"] < alone["speedup_high"]
    assert [row[f"speedup_at_1_{end}"] for end in ("low", "high")] == [alone["speedup_low"], alone["speedup_high"]]
    assert all(math.isnan(row[f"speedup_at_4_{end}"]) for end in ("low", "high"))
    (section,) = detail.limits(stores)
    assert [column.key for column in section.kind.columns] == ["speedup_at_1", "speedup_at_4", "crossing"]


def ticking(step: float) -> Callable[[], float]:
    ticks = count()
    return lambda: step * next(ticks)


def test_forwards_are_timed_in_turn_and_leave_nothing_behind() -> None:
    engines = [Engine(tiny_model("llama"), 256), Engine(tiny_model("llama", seed=1), 256)]
    now, lasts = [0.0], {1: 1.0, 4: 2.0}
    asked = list[tuple[int, int, int]]()

    def watched(number: int, run: Callable[..., Any]) -> Callable[..., Any]:
        def inner(reads: Any) -> Any:
            asked.append((number, len(reads), len(reads[0].tokens)))
            now[0] += lasts.get(len(reads[0].tokens), 0.0) * (10 if number else 1)
            return run(reads)
        return inner

    for number, one in enumerate(engines):
        one.run = watched(number, one.run)  # type: ignore[method-assign]
    found = forward_seconds(engines, [5, 2, 7], (1, 4), 3, texts=2, clock=lambda: now[0])
    assert found == [{1: [1.0] * 3, 4: [2.0] * 3}, {1: [10.0] * 3, 4: [20.0] * 3}]
    assert asked[-4:] == [(0, 2, 1), (1, 2, 1), (0, 2, 4), (1, 2, 4)]
    assert [one.open_rows for one in engines] == [0, 0]


def test_a_copy_runs_forwards_of_its_own() -> None:
    assert copied_bytes_per_second(4_000, "cpu", 2, ticking(0.5)) == pytest.approx(2 * 4_000 / 0.5)


def test_a_copy_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "COPY", 400)
    assert copied_bytes_per_second(4_000, "cpu", 2, ticking(0.5)) == pytest.approx(2 * 400 / 0.5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits") / "run"
    arguments = ["run", "-m", saved("llama"), "--draft", saved("llama", 1), "-t", "nano_math", "-s", "speculative",
                 "--limit", 1, "--max-new-tokens", 6, "--threads", 1, "--device", "cpu", "-o", folder]
    assert call(*arguments).exit_code == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(forwards, "ROUNDS", 2)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_limits_are_measured_once_and_reported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = call("limits", run)
    assert done.exit_code == 0, done.output
    assert "ideal" in done.stdout
    assert "speculative" in done.stdout
    found = Store.open(run).limits()
    assert found is not None
    assert found.draft is not None
    assert (found.target.tokens[0], found.target.tokens[-1]) == (1, 5), "gamma is 4"
    assert [Spec.parse(spec).name for spec in found.drafting] == ["speculative"]
    net = load(str(saved("llama"))).engine.model
    assert found.target.weight_bytes == 4 * (sum(w.numel() for w in net.parameters())
                                             - (0 if net.config.tie_word_embeddings else net.lm_head.weight.numel()))
    heads = net.config.num_key_value_heads * net.config.head_dim
    assert found.target.token_bytes == 4 * net.config.num_hidden_layers * 2 * heads
    before = (run / "limits.json").read_bytes()
    assert call("limits", run).exit_code == 0
    assert (run / "limits.json").read_bytes() == before
    assert call("report", run).exit_code == 0
    assert (run / "report" / "limits.csv").read_text().startswith("task,strategy,tau,v,draft_cost,ideal")
    assert Record.model_validate_json((run / "records" / "0000.jsonl").read_text().splitlines()[0]).peak_bytes


def test_another_machine_or_model_is_refused(run: Path) -> None:
    described = json.loads((run / "manifest.json").read_text())
    for change, words in (({"cpu": "9 x Example"}, "was run on another machine (cpu: 9 x Example, here"),
                          ({}, "is no longer the model of the run")):
        other = json.loads(json.dumps(described))
        other["environment"]["hardware"] |= change
        other["model"]["fingerprint"] = "0"
        (run / "manifest.json").write_text(json.dumps(other))
        done = call("limits", run)
        assert done.exit_code == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (run / "limits.json").exists()


def test_a_run_without_answers_has_nothing_to_measure_for(run: Path) -> None:
    (run / "records" / "0000.jsonl").write_text("")
    with pytest.raises(UserError, match="has no finished sample: run it first"):
        measure(Store.open(run), lambda text: None)
