"""What a run needs is told before anything is loaded, and what its cache cannot hold before anything is decoded."""

from dataclasses import replace

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.loading import load
from harness.plugins.data import DataSource
from harness.plugins.registry import STRATEGIES, TASKS
from harness.run import loading, plan, room
from harness.run.loading import check_models, limit_caches
from harness.run.room import check_room, room_warnings
from harness.run.selection import ChosenTask
from harness.store.config import RunConfig
from tests.device.test_spread import split
from tests.models import MAX_POSITIONS
from tests.pair import saved
from tests.strict_device import DEVICE, OTHER, strict

TASK = TASKS.build("nano_math")
CHOSEN = [ChosenTask(TASK, tuple(TASK.examples(DataSource())[:8]), DataSource())]


def config(**settings: object) -> RunConfig:
    """Return the settings of a run of a tiny model on the CPU."""
    plain = RunConfig(model=str(saved("llama")), device="cpu", strategies=("greedy",), tasks=("nano_math",), limit=1)
    return replace(plain, **settings)  # type: ignore[arg-type]


@pytest.fixture
def needed() -> tuple[int, int]:
    """The bytes of the tiny model's weights and of one token in its cache."""
    model = load(str(saved("llama")))
    return sum(weight.nbytes for weight in model.engine.model.parameters()), model.engine.cache.slot_bytes()


def test_weights_and_one_answer_must_fit(monkeypatch: pytest.MonkeyPatch, needed: tuple[int, int]) -> None:
    weights, token = needed
    wanted, free = config(max_new_tokens=100), [0]
    monkeypatch.setattr(room, "free_bytes", lambda device: free[0])
    free[0] = weights + 100 * token
    check_room(wanted, check_models(wanted), [], [TASK])
    free[0] -= 1
    with pytest.raises(UserError, match=r"for a sequence of 100 tokens, but .* or a lower --max-new-tokens\.$"):
        check_room(wanted, check_models(wanted), [], [TASK])
    check_room(config(backend="openai", base_url="http://localhost:1"), {}, [], [TASK])


def test_the_draft_model_counts_only_where_a_strategy_uses_it(monkeypatch: pytest.MonkeyPatch,
                                                              needed: tuple[int, int]) -> None:
    wanted = config(draft=str(saved("llama", 1)), max_new_tokens=4)
    monkeypatch.setattr(room, "free_bytes", lambda device: needed[0] + 100 * needed[1])
    check_room(wanted, check_models(wanted), [STRATEGIES.build("greedy")], [TASK])
    with pytest.raises(UserError, match=r"' and '.* need .* for their weights"):
        check_room(wanted, check_models(wanted), [STRATEGIES.build("speculative")], [TASK])


def test_a_plan_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(plan, "load_target", lambda config: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=r"needs .* GB for its weights and .*, but 1e-06 GB are free"):
        plan.make(config(), "")


def test_several_gpus_are_suggested_where_they_suffice(monkeypatch: pytest.MonkeyPatch,
                                                       needed: tuple[int, int]) -> None:
    gpus = {"cuda:0": needed[0], "cuda:1": needed[0]}
    monkeypatch.setattr(room, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(room, "free_of_each", lambda device: gpus)
    with pytest.raises(UserError, match=r"--device-map auto \(2 GPUs with"):
        check_room(config(), check_models(config()), [], [TASK])
    check_room(config(device_map="auto"), check_models(config()), [], [TASK])


def test_a_cache_that_holds_no_full_batch_is_told(needed: tuple[int, int]) -> None:
    target, token = load(str(saved("llama"))).engine, needed[1]
    wanted = config(max_new_tokens=200, concurrency=4)
    target.cache.budget = 800 * token
    assert room_warnings(wanted, [target], CHOSEN) == []
    target.cache.budget -= 1
    (told,) = room_warnings(wanted, [target], CHOSEN)
    assert "does not hold its 4 sequences of 200 new tokens; if answers get that long, fewer" in told
    assert "as with --concurrency 3. --cache-gb" in told
    target.cache.budget = int(1e9 * float(told.partition("--cache-gb ")[2].split()[0]))
    assert room_warnings(wanted, [target], CHOSEN) == [], "what is suggested suffices"
    target.cache.budget = 800 * token - 1
    few = [replace(CHOSEN[0], examples=CHOSEN[0].examples[:3])]
    assert room_warnings(wanted, [target], few) == [], "three sequences are all there are"
    (told,) = room_warnings(replace(wanted, max_new_tokens=400, concurrency=1, cache_gb=1e-9), [engine_of(300)], CHOSEN)
    assert "does not hold a sequence of 400 new tokens, so such answers fail; lower --max-new-tokens." in told


def engine_of(slots: int) -> Engine:
    """Return the engine of the tiny model, whose cache may have so many slots."""
    target = load(str(saved("llama"))).engine
    target.cache.budget = slots * target.cache.slot_bytes()
    return target


def test_caches_take_half_of_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {str(DEVICE): 1000_000, str(OTHER): 300_000}
    monkeypatch.setattr(loading, "free_bytes", lambda device: free[device])
    with strict(), torch.inference_mode():
        engine = Engine(split(at=1), MAX_POSITIONS)
        session = Session(engine)
        session.follow([5])
        session.read()
        limit_caches(config(), [engine])
        slot = engine.cache.slot_bytes_by_device()
        slots = engine.cache.budget // engine.cache.slot_bytes()
        assert slots == 150_000 // slot[OTHER] < 500_000 // slot[DEVICE]
        limit_caches(config(cache_gb=0.001), [engine])
        assert engine.cache.budget == 1_000_000
