"""From a configuration to a plan: everything is looked up, loaded and checked before anything is written."""

import datetime
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch

from harness import nano
from harness.backends.native import Native, connect
from harness.engine.cache import CacheFull
from harness.engine.engine import Engine
from harness.engine.random_stream import shuffled
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.models.loading import Model, find, load, outline
from harness.models.prompts import warm_up
from harness.plugins.data import DataSource
from harness.plugins.registry import STRATEGIES, TASKS, add_plugin
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example, Task, data_hash
from harness.store.config import RunConfig
from harness.store.environment import environment
from harness.store.schema import Manifest, ModelEntry, StrategyEntry, TaskEntry

NOT_IN_IDENTITY = {"output", "plugins", "data", "strategies", "tasks", "model", "draft", "allow_code_execution",
                   "baseline", "threads", "cache_gb", "texts", "scorer", "base_url", "key_variable"}
BLOCK = 4  # texts of a block for each that is decoded at a time: rows are refilled, and few blocks have a tail
SMALL = 50_000_000  # parameters below which a second thread gains little, and loses much when its core is busy
THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Cell:
    """Texts to decode together: one strategy, one sample index, and the examples of one block."""

    task: Task
    examples: tuple[Example, ...]
    strategy: Strategy
    sample: int
    repeat: int
    block: int
    order: int

    def at(self, example: Example) -> "Cell":
        """This cell with the strategy at the temperature that the task sets for `example`, if it does."""
        return self if example.temperature is None else replace(self, strategy=self.strategy.at(example.temperature))


@dataclass(frozen=True)
class Plan:
    """A run that can start: loaded models, examples, and the manifest that describes it."""

    config: RunConfig
    manifest: Manifest
    strategies: tuple[Strategy, ...]
    tasks: tuple[tuple[Task, tuple[Example, ...]], ...]
    target: Model
    draft: Model | None
    native: Native | None = None

    def close(self) -> None:
        """Let go of a backend of its own."""
        if self.native:
            self.native.close()

    def cells(self) -> Iterator[Cell]:
        """Every cell in the order of the run: blocks of examples, in each the strategies in a seeded random order.

        Strategies of a backend that cannot keep all of them ready come one after the other.
        """
        if self.native is None or self.native.side_by_side:
            return self._blocks()
        return iter(sorted(self._blocks(), key=lambda cell: self.strategies.index(cell.strategy)))

    def _blocks(self) -> Iterator[Cell]:
        block = 0
        for repeat in range(self.config.repeats):
            for task, examples in self.tasks:
                size = self.config.concurrency * (BLOCK if self.config.concurrency > 1 else 1)
                size = len(examples) if self.config.request_rate else size
                for start in range(0, len(examples), size):
                    group = examples[start:start + size]
                    order = shuffled(range(len(self.strategies)), self.config.seed, repeat, task.spec(), group[0].id)
                    for place, index in enumerate(order):
                        for sample in range(self.config.samples):
                            yield Cell(task, group, self.strategies[index], sample, repeat, block, place)
                    block += 1


def make(config: RunConfig, command: str) -> Plan:
    """Check `config` and load what it names; raises `UserError` before anything is written."""
    for path in config.plugins:
        add_plugin(path)
    device = find_device(config.device)
    config = replace(config, device=device)
    strategies = _strategies(config)
    chosen = _unique([TASKS.build(spec) for spec in config.tasks or _default_tasks()])
    data = [DataSource(config.data) for _ in chosen]  # one each: it says where the rows came from
    found = [_examples(task, source) for task, source in zip(chosen, data, strict=True)]
    torch.set_num_threads(1)  # until the size of the model is known
    if config.scorer:
        find(config.scorer)
    target = _target(config)
    threads = use_threads(config, target)
    tasks = tuple((task, _cut(task, examples, source, target, config.limit))
                  for task, examples, source in zip(chosen, found, data, strict=True))
    draft, reason = _draft(config, target, strategies)
    engines = [model.engine for model in (target, draft) if model and model.here]
    _limit_caches(config, engines)
    native = connect(config, target, draft)
    reasons = {s.spec(): _unsupported(s, config, reason) or (_asked(native, s) if native else
                                                             _tried(s, engines, target)) for s in strategies}
    entries = [_task_entry(task, examples, source, config)
               for (task, examples), source in zip(tasks, data, strict=True)]
    sandbox = _sandbox(chosen, entries)
    warnings = [*dict.fromkeys(warning for source in data for warning in source.warnings), *_warnings(target, chosen),
                *_heated(tasks, strategies), *sandbox.pop("warnings", ()), *(native.warnings if native else ())]
    manifest = Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), command=command,
        baseline=strategies[0].spec(), config=_identity(config) | _server(native),
        strategies=[_strategy_entry(s, reasons[s.spec()]) for s in strategies],
        tasks=entries,
        model=_model_entry(target, config), draft=_model_entry(draft, config) if draft else None,
        environment=environment(device, threads) | sandbox | ({"backend": dict(native.facts)} if native else {}),
        warnings=warnings)
    return Plan(config, manifest, tuple(s for s in strategies if not reasons[s.spec()]), tasks, target, draft, native)


def part(plan: Plan, strategies: Sequence[Strategy], examples: Sequence[Sequence[Example]], output: Path) -> Plan:
    """The plan for other settings of its strategies and for some `examples` of each task, to be kept in `output`.

    The baseline comes first, whether or not it is named. What cannot run is in the manifest with the reason.
    """
    engines = [model.engine for model in (plan.target, plan.draft) if model]
    known = {entry.spec: entry for entry in plan.manifest.strategies}
    wanted = _unique([STRATEGIES.build(plan.manifest.baseline), *strategies])
    entries = [known.get(s.spec()) or _strategy_entry(s, _unsupported(s, plan.config, "")
                                                      or _refused(s, engines, plan)) for s in wanted]
    tasks = [entry.model_copy(update={"data_hash": data_hash(own), "examples": len(own)})
             for entry, own in zip(plan.manifest.tasks, examples, strict=True)]
    return replace(
        plan, config=replace(plan.config, output=output),
        strategies=tuple(s for s, entry in zip(wanted, entries, strict=True) if not entry.unsupported),
        tasks=tuple((task, tuple(own)) for (task, _), own in zip(plan.tasks, examples, strict=True)),
        manifest=plan.manifest.model_copy(update={"strategies": entries, "tasks": tasks}))


def _asked(native: Native, strategy: Strategy) -> str | None:
    """Why another backend refuses a strategy; where it can run nothing, it is let go of."""
    try:
        return native.refusal(strategy)
    except UserError:
        native.close()
        raise


def _refused(strategy: Strategy, engines: Sequence[Engine], plan: Plan) -> str | None:
    """Why a setting cannot run with these models, a value that they refuse included."""
    try:
        return plan.native.refusal(strategy) if plan.native else _tried(strategy, engines, plan.target)
    except UserError as error:
        return str(error)


def find_device(name: str) -> str:
    """The device to use; raises `UserError` when it cannot be."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device '{name}' cannot be used here ({str(error).splitlines()[0]}); "
                        "choose cpu, or leave --device out.") from None
    return name


def _reference(config: RunConfig) -> str:
    """Where our own copy of the model goes: beside a backend of its own, which needs the device, to the processor."""
    return config.device if config.backend == "transformers" else "cpu"


def use_threads(config: RunConfig, target: Model) -> int:
    """Set torch's threads: as asked, else one for a small model and torch's own choice for others."""
    threads = config.threads or (1 if target.parameters < SMALL else THREADS)
    torch.set_num_threads(threads)
    return threads


def _limit_caches(config: RunConfig, engines: Sequence[Engine]) -> None:
    """Share the memory for keys and values among the models, in proportion to what a token takes in each."""
    if config.cache_gb:
        total = int(config.cache_gb * 1e9)
    else:
        free = torch.cuda.mem_get_info()[0] if config.device.startswith("cuda") else psutil.virtual_memory().available
        total = free // 2
    each = [engine.cache.slot_bytes() for engine in engines]
    for engine, size in zip(engines, each, strict=True):
        engine.cache.budget = total * size // sum(each)


def _strategies(config: RunConfig) -> list[Strategy]:
    """The strategies asked for, the baseline first and always among them."""
    asked = [STRATEGIES.build(spec) for spec in config.strategies or sorted(STRATEGIES.built_in())]
    return _unique([STRATEGIES.build(config.baseline), *asked])


def _default_tasks() -> list[str]:
    return [name for name in sorted(TASKS.built_in()) if name.startswith("nano_")]


def _unique(plugins: Sequence[Any]) -> list[Any]:
    return list({plugin.spec(): plugin for plugin in plugins}.values())


def _examples(task: Task, data: DataSource) -> list[Example]:
    examples = task.examples(data)
    if not examples:
        raise UserError(f"The task '{task.name}' has no examples.")
    if len({example.id for example in examples}) != len(examples):
        raise UserError(f"The task '{task.name}' has two examples of the same id.")
    return examples


def _cut(task: Task, examples: Sequence[Example], data: DataSource, target: Model,
         limit: int | None) -> tuple[Example, ...]:
    """The first `limit` examples as the model gets them; those that are left out are counted in a warning."""
    kept, seen = list[Example](), 0
    for example in examples:
        if len(kept) == limit:
            break
        seen += 1
        if (cut := task.cut(example, target.tokenizer)) is not None:
            kept.append(cut)
    if not kept:
        raise UserError(f"No example of {task.spec()} is long enough; ask for fewer tokens of each.")
    if len(kept) < seen:
        data.warnings.append(f"{task.name}: {seen - len(kept)} of {seen} examples are too short and left out.")
    return tuple(kept)


def _server(native: Native | None) -> dict[str, Any]:
    """What must be the same when a run is resumed on a server, at whatever address."""
    facts = dict(native.facts) if native else {}
    return {"server": facts["server"]} if "server" in facts else {}


def _target(config: RunConfig) -> Model:
    """The model; of one that a server has only what its folder says of it, unless it is embedded."""
    if config.backend != "openai":
        return load(config.model, dtype=config.dtype, device=_reference(config), tokenizer=config.tokenizer,
                    compiled=config.compile)
    name = config.tokenizer or config.model
    found = load(name, device="cpu") if name in nano.NAMES else outline(name)
    return replace(found, name=config.model)


def _draft(config: RunConfig, target: Model, strategies: Sequence[Strategy]) -> tuple[Model | None, str]:
    """The draft model if a strategy wants one, and why there is none otherwise."""
    if config.backend == "openai" or not any("draft" in strategy.needs for strategy in strategies):
        return None, ""
    name = config.draft or (nano.NAMES[1] if config.model == nano.NAMES[0] else None)
    if name is None:
        return None, "needs a draft model: give one with --draft"
    draft = load(name, dtype=config.dtype, device=_reference(config), tokenizer=config.tokenizer,
                 compiled=config.compile)
    if draft.tokenizer.get_vocab() != target.tokenizer.get_vocab() or draft.vocab != target.vocab:
        raise UserError(f"The draft model '{name}' and '{target.name}' do not share a vocabulary; "
                        "give a draft model of the same family.")
    return draft, ""


def _unsupported(strategy: Strategy, config: RunConfig, no_draft: str) -> str | None:
    most = strategy.most_samples()
    if most is not None and config.samples > most:
        return f"gives at most {most} samples a prompt"
    return no_draft or None if "draft" in strategy.needs else None


@torch.inference_mode()
def _tried(strategy: Strategy, engines: Sequence[Engine], target: Model) -> str | None:
    """Why a strategy cannot run with these models, as its first steps say; raises `UserError` for a knob they refuse.

    Any other failure is left to the run, which records it with the text that it belongs to.
    """
    try:
        with closing(opened(strategy, engines)) as session:
            for _ in islice(strategy.generate(session, warm_up(target)[0]), 2):
                pass
    except Unsupported as error:
        return str(error)
    except CacheFull:
        return None
    except UserError:
        raise
    except Exception:
        return None
    finally:
        for engine in engines:
            engine.learnt.clear()
    return None


def opened(strategy: Strategy, engines: Sequence[Engine]) -> Session:
    """A new text for `strategy` on the target's engine, and on the draft's where it needs one."""
    draft = Session(engines[1]) if "draft" in strategy.needs else None
    return Session(engines[0], draft, remember="hidden" in strategy.needs)


def _warnings(target: Model, tasks: Sequence[Task]) -> list[str]:
    if any(task.chat for task in tasks) and not getattr(target.tokenizer, "chat_template", None):
        return [f"{target.name} has no chat template: chats are written as 'User: …' and 'Assistant: …'."]
    return []


def _sandbox(tasks: Sequence[Task], entries: Sequence[TaskEntry]) -> dict[str, Any]:
    """What programs are kept from, where a run has any, and a warning when that is not all that it should be."""
    if not any(task.executes_code and not entry.unscored for task, entry in zip(tasks, entries, strict=True)):
        return {}
    from harness.sandbox import active_protections, isolation

    weak = not {"seccomp", "landlock"} <= set(active_protections())
    return {"sandbox": isolation(), "warnings": [f"Programs ran with this between them and the machine: {isolation()}."]
            if weak else []}


def _heated(tasks: Sequence[tuple[Task, tuple[Example, ...]]], strategies: Sequence[Strategy]) -> list[str]:
    found = []
    for task, examples in tasks:
        wanted = {one.temperature for one in examples if one.temperature is not None}
        if wanted and (obey := [s.spec() for s in strategies if any(s.at(t) is not s for t in wanted)]):
            found.append(f"{task.spec()} sets temperatures, which {', '.join(obey)} takes in place of its own; the "
                         "other strategies decode as on every task.")
    return found


def _identity(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in vars(config).items() if key not in NOT_IN_IDENTITY and value != ()}


def _strategy_entry(strategy: Strategy, unsupported: str | None) -> StrategyEntry:
    return StrategyEntry(spec=strategy.spec(), name=strategy.name, family=strategy.family,
                         guarantee=strategy.guarantee, paper=strategy.paper, knobs=strategy.values(),
                         unsupported=unsupported)


def _task_entry(task: Task, examples: Sequence[Example], data: DataSource, config: RunConfig) -> TaskEntry:
    unscored = task.unscored
    if task.executes_code and config.model not in nano.NAMES and not config.allow_code_execution:
        unscored = "code not run: allow it with --allow-code-execution"
    return TaskEntry(spec=task.spec(), version=task.version, headline=task.headline, unscored=unscored,
                     data="; ".join(data.origins.values()) or "embedded", data_hash=data_hash(examples),
                     examples=len(examples), max_new_tokens=config.max_new_tokens or task.max_new_tokens,
                     sub_tasks=task.sub_tasks)


def _model_entry(model: Model, config: RunConfig) -> ModelEntry:
    return ModelEntry(name=model.name, architecture=type(model.engine.model).__name__, parameters=model.parameters,
                      dtype=config.dtype, fingerprint=model.fingerprint)
