"""Choosing the tree of `sequoia`: the choice against all trees, counted rates, what it predicts, and wrong input."""

import runpy
from itertools import cycle, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.errors import UserError
from harness.run.plan import make
from harness.store.config import RunConfig
from strategies.drafters.sequoia_plan import Size, fitted, most_tokens, plan, size
from strategies.drafters.sequoia_rates import chances, prompted, ranks
from strategies.sequoia import Sequoia
from strategies.tools import sequoia_size
from tests.decode import engine, traced
from tests.models import prompts, tiny_model
from tests.pair import saved
from tests.scale import scaled
from tests.strategies.test_trees import brute

RATES = (0.6, 0.2, 0.1)
VERIFY = {1: 1.0, 2: 1.05, 4: 1.1, 8: 1.3, 16: 1.7, 32: 2.6, 64: 4.5}


def best(rates: tuple[float, ...], nodes: int, depth: int) -> float:
    """The most tokens of any tree of at most `nodes` nodes and `depth` levels."""
    return float(most_tokens(rates, nodes, depth)[1:].max())


@pytest.mark.parametrize("rates", [RATES, (0.4, 0.35, 0.2), (0.9,), (0.3, 0.3, 0.3)])
def test_tables_against_all_trees(rates: tuple[float, ...]) -> None:
    """Seven nodes with the root, any depth: of exactly m nodes, where such a tree of these ranks exists."""
    for depth in range(1, 7):
        table = most_tokens(rates, 6, depth)
        for m in range(2, 8):
            expected = brute(rates, m - 1, depth)
            assert table[m] == pytest.approx(expected) or (table[m] == -torch.inf and expected <= table[1:m].max())


@pytest.mark.parametrize("draft", [0.0, 0.01, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("rates", [RATES, (0.9,)])
def test_the_choice_against_all_trees(rates: tuple[float, ...], draft: float) -> None:
    verify = {1: 1.0, 2: 1.1, 4: 1.2, 6: 2.0, 7: 2.1}
    between = verify | {3: 1.15, 5: 1.6}
    every = {(nodes, depth): (depth * draft + between[nodes + 1]) /
             max(brute(rates, count, depth) for count in range(1, nodes + 1))
             for nodes in range(1, 7) for depth in range(1, 5)}
    found = size(rates, draft, verify, 4)
    assert found.seconds / found.tokens == pytest.approx(min(every.values()))
    assert every[found.nodes, found.depth] == pytest.approx(min(every.values()))
    assert found.seconds == pytest.approx(found.depth * draft + between[found.nodes + 1])
    assert found.tokens == pytest.approx(plan(rates, found.nodes, found.depth)[1])


def test_a_free_draft_gives_the_deepest_tree() -> None:
    """No limit of depth costs it a token; a chain uses every level."""
    flat = dict.fromkeys((1, 64), 1.0)
    free = size(RATES, 0.0, flat, 40)
    assert free.tokens == pytest.approx(best(RATES, 63, 40))
    assert size((0.9,), 0.0, flat, 40).depth == 40
    assert size((0.9,), 0.0, flat, 10) == Size(10, 10, pytest.approx(best((0.9,), 63, 10)), 1.0)
    assert size(RATES, 1000.0, flat, 40).depth == 1


def test_a_free_verification_gives_the_largest_tree() -> None:
    free = size(RATES, 1.0, dict.fromkeys((1, 64), 0.0), 12)
    assert free.tokens == pytest.approx(best(RATES, 63, free.depth))
    assert size(RATES, 1.0, {1: 0.0, 64: 1000.0}, 12).nodes == 1


def test_the_choice_is_monotone() -> None:
    """A dearer draft gives fewer levels a token, a dearer verification less of it a token; both fewer tokens a second.

    Of two prices each choice is best at its own, which says that much and no more: d itself need not fall.
    """
    drafts = [0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    for a, b in pairwise([size(RATES, draft, VERIFY, 12) for draft in drafts]):
        assert a.depth / a.tokens >= b.depth / b.tokens
        assert a.seconds / a.tokens <= b.seconds / b.tokens
    factors = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0]
    found = [size(RATES, 0.1, {m: factor * time for m, time in VERIFY.items()}, 12) for factor in factors]
    price = [(one.seconds - 0.1 * one.depth) / factor / one.tokens for one, factor in zip(found, factors, strict=True)
             if factor]
    assert all(a >= b - 1e-12 for a, b in pairwise(price))
    assert all(a.depth / a.tokens <= b.depth / b.tokens for a, b in pairwise(found))


def test_more_rates_never_make_it_slower() -> None:
    found = [size(RATES[:count], 0.1, VERIFY, 12) for count in (1, 2, 3)]
    assert all(a.seconds / a.tokens >= b.seconds / b.tokens for a, b in pairwise(found))


def test_wide_levels_are_dearer() -> None:
    """The draft's time is that of the levels it reads; when it is the same for all, so is the choice."""
    same = fitted(RATES, dict.fromkeys(VERIFY, 0.1), VERIFY, 12)
    assert same == size(RATES, 0.1, VERIFY, 12)
    wide = fitted(RATES, {m: 0.1 * m for m in VERIFY}, VERIFY, 12)
    assert wide.seconds / wide.tokens >= same.seconds / same.tokens


def test_rates_are_written_so_that_sequoia_reads_them() -> None:
    assert chances([5, 3, 1, 0, 1], 10) == (0.5, 0.3, 0.1)
    assert chances([2, 1], 3) == (0.6666, 0.3333)
    assert chances([9999, 0], 9999) == (1.0,)
    assert chances([99999, 1], 100000) == (0.9999,)  # 0.00001 would be written with an exponent
    for counts, places in (([0, 3], 5), ([0], 0)):
        with pytest.raises(UserError, match="first choice was accepted 0 times"):
            chances(counts, places)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_perfect_draft_is_always_right(temperature: float) -> None:
    one, strategy = engine(tiny_model("llama")), Sequoia(temperature=temperature)
    texts = [(prompt, 1) for prompt in prompts(6)]
    counts, places = ranks(one, one, texts, strategy, 4)
    assert places == sum(len(text) - 1 for text, _ in texts)
    assert counts == [places, 0, 0, 0]


def test_ranks_of_another_draft() -> None:
    """At temperature 0 a rank is the place of the target's likeliest token among the draft's."""
    target, draft = engine(tiny_model("llama")), engine(tiny_model("llama", seed=1))
    texts = [(prompt, 2) for prompt in prompts(8, 97, 2)]
    expected = [0] * 40
    with torch.inference_mode():
        for text, start in texts:
            p, q = (one.model(torch.tensor([text])).logits[0, start - 1:-1] for one in (target, draft))
            for token, row in zip(p.argmax(-1).tolist(), q, strict=True):
                order = row.argsort(descending=True).tolist().index(token)
                if order < 40:
                    expected[order] += 1
    assert ranks(target, draft, texts, Sequoia(), 40)[0] == expected
    counts, places = ranks(target, draft, texts, Sequoia(temperature=1.5), 97)
    assert sum(counts) == places  # all siblings together are the whole vocabulary


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_predicted_and_measured_tokens_a_step(temperature: float) -> None:
    """They agree to 15 % where the rates were counted: the plan takes all places for alike, and last steps are cut."""
    made = make(RunConfig(strategies=("sequoia",), tasks=("nano_story", "nano_math", "nano_edit"),
                          limit=scaled(2, 4), device="cpu"), "")
    assert made.draft is not None
    target, draft, law = made.target.engine, made.draft.engine, Sequoia(temperature=temperature)
    texts = prompted(made, law, 48)
    rates = chances(*ranks(target, draft, texts, law, 4))
    strategy = Sequoia(nodes=8, depth=4, rates="-".join(f"{rate:.4f}" for rate in rates), temperature=temperature)
    accepted = steps = 0
    for tokens, start in texts:
        new = max(2, len(tokens) - start)
        _, work, _ = traced(strategy, target, tokens[:start], draft=draft, new=new, eos=None)
        accepted, steps = accepted + work.accepted, steps + work.forwards - 1
    predicted = plan(rates, 8, 4)[1]
    assert 1 + accepted / steps == pytest.approx(predicted, rel=0.15)
    if not temperature:
        assert predicted > best(rates[:1], 4, 4)


def test_noise_makes_no_forward_dearer_than_a_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians by a clock of our own: the draft takes 1, 5, 2, 8 for 1, 2, 4, 8 tokens, the target ten times that."""
    ticks, now = cycle([1, 10, 5, 50, 2, 20, 8, 80]), [0.0, 0.0]

    def clock() -> float:
        now[1] += 1
        now[0] += 0 if now[1] % 2 else next(ticks)
        return now[0]
    monkeypatch.setattr(sequoia_size, "time", SimpleNamespace(perf_counter=clock))
    one = engine(tiny_model("llama"))
    small, large = sequoia_size.times([one, engine(tiny_model("llama", seed=1))], prompts(1)[0], (1, 2, 4, 8))
    assert (small, large) == ({1: 1, 2: 2, 4: 2, 8: 8}, {1: 10, 2: 20, 4: 20, 8: 80})
    assert one.open_rows == 0
    assert one.positions == len(prompts(1)[0]) - 1 + (1 + sequoia_size.ROUNDS) * (1 + 2 + 4 + 8)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()  # what saving a model printed
    code = sequoia_size.main([str(argument) for argument in ("--task", "nano_math", "--limit", 1, *arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_it_prints_a_strategy_that_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven " * 12)
    code, out, err = call(capsys, "--model", saved("llama"), "--draft", saved("llama", 1), "--texts", text,
                          "--temperature", 1, "--depth", 4, "--device", "cpu")
    assert (code, err) == (0, "")
    *_, expected, spec = out.splitlines()
    assert " tokens a step expected, " in expected
    name, _, knobs = spec.partition(":")
    values = dict(knob.split("=") for knob in knobs.split(","))
    assert name == "sequoia"
    assert Sequoia.configured(values).depth <= 4
    assert values["temperature"] == "1.0"


@pytest.mark.parametrize(("arguments", "words"), [
    (["--model", "nan"], "There is no model 'nan'"),
    (["--draft", "nano-drft"], "There is no model 'nano-drft'"),
    (["--texts", "{}/missing.txt"], "There is no file or folder {}/missing.txt."),
    (["--texts", "{}/empty.txt"], "{}/empty.txt contains no text; pass a file or a folder of texts with --texts."),
    (["--texts", "{}/folder"], "{}/folder contains no text; pass a file or a folder of texts with --texts."),
    (["--task", "nano_stories"], "Did you mean 'nano_story'?"),
    (["--limit", "0"], "--limit must be at least 1, not 0."),
    (["--depth", "0"], "--depth must be from 1 to 64, not 0."),
    (["--temperature", "-1"], "must be at least 0"),
    (["--dtype", "float8"], "There is no dtype 'float8'."),
])
def test_wrong_input_is_one_sentence(arguments: list[str], words: str, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    code, out, err = call(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert words.format(tmp_path) in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_command_ends_with_two_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["sequoia_size", "--texts", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(sequoia_size.__file__, run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr() == ("", f"Error: There is no file or folder {tmp_path / 'none'}.\n")


def test_a_model_without_a_draft(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "--model", saved("llama"))
    assert (code, err) == (2, f"Error: There is no draft model for {saved('llama')}: give one with --draft.\n")
