"""Routers that choose the layers of an answer: identities, one set for all steps, counts, controls, and training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine.hooks import Skip, Watch
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import Unsupported, UserError
from harness.heads.network import TargetParts
from harness.laboratory import prompts
from harness.laboratory.corpus import Answer, answers
from harness.models.loading import Model, fingerprint, load
from harness.plugins.strategy import Request
from strategies.first import First
from strategies.parts.router_training import Gates, train
from strategies.parts.routers import Route, Routers, keep_chances
from strategies.parts.routers import load as load_routers
from strategies.tools import first_train
from tests.scale import scaled
from tests.self_drafting import PROMPTS, deep, greedy, steps

LAYERS = 6


def made(path: Path, bias: list[float], weight: torch.Tensor | None = None, order: tuple[int, ...] = (4, 2, 3, 1, 5, 0)
         ) -> str:
    """A file of routers of the deep model, of which each says the same about every token unless there is a weight."""
    found = torch.zeros(LAYERS, 64) if weight is None else weight
    Routers(found, torch.tensor(bias), order, fingerprint(deep().model, rounded=True)).save(path)
    return str(path)


def flat(blocks: list[list[int]]) -> list[int]:
    return [token for block in blocks for token in block]


def without(skipped: frozenset[int], prompt: list[int], new: int) -> list[int]:
    """Greedy decoding by hand, with these layers left out after the prompt."""
    session, text = Session(deep()), list(prompt)
    for step in range(new):
        session.follow(text)
        text += session.read(EMPTY, Skip(skipped, skipped) if step else None).best
    session.close()
    return text[len(prompt):]


@pytest.mark.parametrize("knobs", [{"threshold": 0.0}, {"source": "profile", "share": 0.0},
                                   {"source": "random", "threshold": 0.0}], ids=str)
def test_answers_that_run_all_layers_are_those_of_greedy(tmp_path: Path, knobs: dict[str, Any]) -> None:
    strategy = First(file=made(tmp_path / "routers", [-9.0] * LAYERS), **knobs)
    session, blocks = steps(strategy, PROMPTS[0], 20, deep())
    assert flat(blocks) == greedy(PROMPTS[0], 20, deep())
    assert session.work.compute.numbers()["mlp"] == LAYERS * session.work.positions


def test_layers_with_a_low_router_are_skipped_in_the_whole_answer(tmp_path: Path) -> None:
    """Golden: sigmoid(-1) is 0.27 and sigmoid(1) is 0.73."""
    file, size = made(tmp_path / "routers", [1.0, 1, -1, 1, -1, 1]), len(PROMPTS[0])
    for threshold, skipped in ((0.5, {2, 4}), (0.25, set()), (0.28, {2, 4}), (0.75, set(range(LAYERS)))):
        session, blocks = steps(First(file=file, threshold=threshold), PROMPTS[0], 12, deep())
        assert flat(blocks) == without(frozenset(skipped), PROMPTS[0], 12)
        found = session.work.compute.numbers()
        assert found["mlp"] == found["attention"] == LAYERS * size + (LAYERS - len(skipped)) * 11


def test_the_prompt_decides_by_the_mean_over_its_tokens(tmp_path: Path) -> None:
    """By the inputs of the layers, each of which is scaled to a mean square of 1."""
    weight = torch.randn(LAYERS, 64, generator=torch.Generator().manual_seed(1)) / 2
    routers = load_routers(Path(made(tmp_path / "routers", [0.0] * LAYERS, weight)))
    session, names = Session(deep()), [f"hidden:{layer}" for layer in range(LAYERS)]
    sets = set()
    for prompt in PROMPTS:
        session.follow(prompt)
        output = session._extend(prompt, EMPTY, Watch(tuple(names)))._parts[-1]._output
        states = [output.recorded(name)[0] for name in names]
        wanted = [torch.sigmoid(state / state.square().mean(-1, keepdim=True).sqrt() @ weight[layer]).mean()
                  for layer, state in enumerate(states)]
        session.follow(())
        session.follow(prompt)
        route = Route(routers)
        session.read(EMPTY, route)
        torch.testing.assert_close(route.means(), torch.stack(wanted), atol=1e-4, rtol=1e-4)
        strategy = First(file=str(tmp_path / "routers"))
        chosen = strategy.chosen(routers, route, Request(tuple(prompt), 9, PhiloxStream(0)))
        assert chosen == {layer for layer, mean in enumerate(wanted) if mean < 0.5}
        sets.add(chosen)
        session.follow(())
    session.close()
    assert len(sets) > 1, "prompts differ"
    assert keep_chances(torch.zeros(2, 64), weight[0], torch.tensor(0.0)).tolist() == [0.5, 0.5]


def test_other_choices_of_as_many_layers(tmp_path: Path) -> None:
    """The profile takes its first layers; the control draws as many as the routers would skip, once for the answer."""
    file = made(tmp_path / "routers", [1.0, 1, -1, 1, -1, 1])
    _, blocks = steps(First(file=file, source="profile", share=0.5), PROMPTS[0], 12, deep())
    assert flat(blocks) == without(frozenset({4, 2, 3}), PROMPTS[0], 12)
    session, blocks = steps(First(file=file, source="random"), PROMPTS[0], 12, deep())
    assert session.work.compute.numbers()["mlp"] == LAYERS * len(PROMPTS[0]) + 4 * 11
    drawn = 1 + PhiloxStream(0).uniform(LAYERS - 1).argsort()[:2]
    assert flat(blocks) == without(frozenset(drawn.tolist()), PROMPTS[0], 12)


def test_wrong_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("{}")
    for path in (broken, tmp_path / "none"):
        with pytest.raises(UserError, match="is no file of routers"):
            First(file=str(path))
    with pytest.raises(Unsupported, match="needs routers: train them"):
        steps(First(), PROMPTS[0], 3, deep())
    with pytest.raises(Unsupported, match="trained for another model"):
        steps(First(file=made(tmp_path / "routers", [1.0] * LAYERS)), PROMPTS[0], 3, deep("llama", sharpness=1.0))
    Routers(torch.zeros(3, 64), torch.zeros(3), (0, 1, 2), "").save(tmp_path / "small")
    with pytest.raises(Unsupported, match="trained for another model"):
        steps(First(file=str(tmp_path / "small")), PROMPTS[0], 3, deep())


def test_gates_are_what_the_strategy_runs(tmp_path: Path) -> None:
    """Training with hard gates computes the losses of the layers that `first` runs."""
    torch.manual_seed(0)
    gates = Gates(TargetParts.of(deep()))
    with torch.no_grad():
        gates.weight.copy_(torch.randn_like(gates.weight) / 2)
        gates.bias.zero_()
        found = [Answer(list(prompt), greedy(prompt, 6 + number, deep())) for number, prompt in enumerate(PROMPTS)]
        passed, session, losses = gates.passed(found, hard=True), Session(deep()), list[float]()
    for row, one in enumerate(found):
        skipped = frozenset((passed.kept[row] < 0.5).nonzero().view(-1).tolist())
        losses.append(first_train.answer_loss(session, one, skipped))
        file = made(tmp_path / f"{row}", [0.0] * LAYERS, gates.weight)
        _, blocks = steps(First(file=file), one.prompt, 8, deep())
        assert flat(blocks) == without(skipped, one.prompt, 8)
    session.close()
    sizes = [len(one.tokens) for one in found]
    for part, wanted in zip(passed.loss.split(sizes), losses, strict=True):
        torch.testing.assert_close(part.mean().item(), wanted, atol=1e-3, rtol=1e-3)


def test_the_profile_leaves_out_first_what_harms_least() -> None:
    """Brute force: at each step no other layer has a lower loss."""
    found = [Answer(list(prompt), greedy(prompt, 8, deep())) for prompt in PROMPTS[:2]]
    order = first_train.profile(Model("deep", deep(), None, frozenset(), ""), found)
    session = Session(deep())
    for step in range(LAYERS - 1):
        sets = {one: frozenset([*order[:step], one]) for one in range(LAYERS) if one not in order[:step]}
        losses = {one: sum(first_train.answer_loss(session, answer, skipped) for answer in found)
                  for one, skipped in sets.items()}
        assert losses[order[step]] == min(losses.values())
    session.close()
    assert sorted(order) == list(range(LAYERS))


def test_training_on_nano(tmp_path: Path) -> None:
    """A heavy weight of the layers lowers what routers say, in a frozen model; tuning changes the model."""
    model = load("nano")
    before = fingerprint(model.engine.model)
    asked = prompts.of_nano(model, "train", 3)
    found = list(answers(model, asked, 12))
    first = train(model, found, scaled(4, 20), 0.0, lambda text: None, size=4)
    assert fingerprint(model.engine.model) == before
    heavy = train(model, found, scaled(4, 20), 10.0, lambda text: None, size=4)
    kept = [float(one.passed(found, hard=True).kept.detach().mean()) for one in (first, heavy)]
    assert kept[1] < kept[0]
    train(model, found, 1, 0.0, lambda text: None, size=4, tune_steps=2)
    assert fingerprint(model.engine.model) != before


def test_the_report_of_a_tuned_model_is_that_of_the_model_on_disk(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("strategies.parts.router_training.TUNE_RATE", 0.1)
    out, tuned = tmp_path / "routers", tmp_path / "tuned"
    arguments = ["--limit", "5", "--new", "24", "--steps", "4", "--tune", str(tuned), "--out", str(out)]
    assert first_train.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    routers, lines = load_routers(out), list[list[str]]()
    for name in ("nano", str(tuned)):
        model = load(name)
        gates = Gates(TargetParts.of(model.engine))
        gates.load_state_dict({"weight": routers.weight, "bias": routers.bias})
        found = [one for one in answers(load("nano"), prompts.of_nano(model, "train", 5), 24, 0)
                 if len(one.tokens) > 1]
        lines.append(first_train.report(gates, found[::first_train.HELD_OUT]))
    assert printed[:2] == lines[1] != lines[0]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, error in ((["--steps", "0"], "--steps must be at least 1"),
                             (["--tune", str(tmp_path)], "give --tune a new folder"),
                             (["--model", "nano", "--limit", "1", "--new", "2"], "too few to train routers")):
        assert first_train.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


