"""Artificial runs for the tests of reports: scripted times and texts, no model."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.plugins.spec import Spec
from harness.store.folder import Store
from harness.store.schema import Manifest, ModelEntry, Record, Steps, Stop, StrategyEntry, TaskEntry, Turn

MODEL = ModelEntry(name="nano", architecture="LlamaForCausalLM", parameters=3_200_000, dtype="float32",
                   fingerprint="5f0c1d2e")


def strategy(spec: str, family: str = "greedy", guarantee: str = "lossless",
             unsupported: str | None = None) -> StrategyEntry:
    """Return a strategy entry of a manifest."""
    parsed = Spec.parse(spec)
    return StrategyEntry(spec=spec, name=parsed.name, family=family, guarantee=guarantee, paper="",
                         knobs=dict(parsed.knobs), unsupported=unsupported)


def task(spec: str, headline: str = "accuracy", unscored: str | None = None, examples: int = 2) -> TaskEntry:
    """Return a task entry of a manifest."""
    return TaskEntry(spec=spec, version=1, headline=headline, unscored=unscored, data="embedded",
                     data_hash="0123456789abcdef", examples=examples, max_new_tokens=64)


def manifest(strategies: list[StrategyEntry], tasks: list[TaskEntry], warnings: Sequence[str] = ()) -> Manifest:
    """Return a manifest whose baseline is the first strategy."""
    return Manifest(
        created="2025-03-01T12:00:00+00:00", command="decodebench run -m nano --seed 0",
        baseline=strategies[0].spec, config={"seed": 0}, strategies=strategies, tasks=tasks, model=MODEL, draft=None,
        environment={"hardware": {"cpu": "8 x Example 3000", "memory_gb": 32}, "python": "3.11.2", "torch": "2.9.0"},
        warnings=list(warnings),
    )


def turn(tokens: list[int], seconds: list[float], ids: list[int] | None = None, text: str = "text",
         prompt: str = "prompt", stop: Stop = "eos", drafted: Sequence[int] = (), accepted: Sequence[int] = (),
         draft_forwards: Sequence[int] = ()) -> Turn:
    """Return one answer from its tokens and seconds per step; a forward is over one position and the draft."""
    drafted = list(drafted) or [0] * len(tokens)
    steps = Steps(
        tokens=tokens, seconds=seconds, forwards=[1] * len(tokens), positions=[1 + n for n in drafted],
        drafted=drafted, accepted=list(accepted) or [0] * len(tokens),
        draft_forwards=list(draft_forwards) or [0] * len(tokens), draft_positions=[0] * len(tokens),
    )
    return Turn(prompt=prompt, prompt_tokens=10, text=text, raw=text, stop=stop, steps=steps,
                tokens=list(range(sum(tokens))) if ids is None else ids)


def record(task: str, example: str, strategy: str, turns: Sequence[Turn] = (), score: float | None = None,
           sample: int = 0, error: str | None = None, repeat: int = 0) -> Record:
    """Return one finished sample with the score `accuracy`, or a failed one with its `error`."""
    return Record(task=task, example=example, strategy=strategy, sample=sample, repeat=repeat, block=0, order=0,
                  started=0.0, seconds=sum(sum(turn.steps.seconds) for turn in turns),
                  status="failed" if error else "ok", error=error, turns=list(turns),
                  scores={} if score is None else {"accuracy": score})


def write(folder: Path, manifest: Manifest, records: Iterable[Record]) -> Store:
    """Write a run."""
    with Store.begin(folder, manifest) as store, store.path.open("w", encoding="utf-8") as file:
        file.writelines(one.model_dump_json() + "\n" for one in records)
    return store


Row = tuple[str, str, str, float, float, float]
# spec, family, guarantee, tokens a step, seconds a step compared with greedy, quality compared with greedy
STRATEGIES: list[Row] = [
    ("greedy", "greedy", "lossless", 1, 1.0, 0.0),
    ("top_p:p=0.9,temperature=0.7", "sampling", "distribution-preserving", 1, 1.05, -0.06),
    ("top_p:p=0.95,temperature=1", "sampling", "distribution-preserving", 1, 1.06, -0.15),
    ("beam:width=4,length_penalty=1", "search", "changes-output", 1, 2.6, 0.06),
    ("diverse_beam:width=4,groups=2,diversity=0.5", "search", "changes-output", 1, 2.9, 0.04),
    ("contrastive_search:k=4,alpha=0.6", "contrastive", "changes-output", 1, 1.9, 0.02),
    ("momentum:order=3,alpha=0.2,k=5", "contrastive", "changes-output", 1, 1.15, 0.01),
    ("speculative:k=5,temperature=0", "speculative", "lossless", 3.1, 1.6, 0.0),
    ("prompt_lookup:k=10,ngram=3,temperature=0", "speculative", "lossless", 1.6, 1.05, 0.0),
]
WORDS = ["Tom", "has", "seven", "red", "apples", "and", "gives", "three", "of", "them", "to", "Ann", "so", "how",
         "many", "are", "left", "now", "?"]


def realistic(folder: Path, examples: int = 12, strategies: Sequence[Row] = STRATEGIES,
              lengths: tuple[int, int] = (20, 50), more: Sequence[str] = ()) -> Store:
    """Write a seeded run of many strategies on four tasks and `more`; one task is unscored, one strategy refused."""
    tasks = [*(task(name, examples=examples) for name in ("nano_math", "nano_code", "nano_chat", *more)),
             task("mt_bench", unscored="needs a judge: --judge MODEL", examples=examples)]
    entries = [strategy(spec, family, guarantee) for spec, family, guarantee, *_ in strategies]
    entries.append(strategy("medusa:heads=4", "speculative", "lossless", "the model has no extra heads"))
    rng = random.Random(0)

    def records() -> Iterator[Record]:
        for entry in tasks:
            for number in range(examples):
                length, right = rng.randint(*lengths), rng.random()
                for row in strategies:
                    yield _drawn(rng, entry, number, row, length, right)
    warnings = ["the clock of the processor is not fixed: times vary by 4 %"]
    return write(folder, manifest(entries, tasks, warnings), records())


def _drawn(rng: random.Random, entry: TaskEntry, number: int, row: Row, length: int, right: float) -> Record:
    spec, _, guarantee, per_step, cost, better = row
    example = f"{entry.spec}/{number}"
    if spec.startswith("contrastive") and number == 3:
        return record(entry.spec, example, spec, error="RuntimeError: out of memory <reading 4 candidates>")
    words = random.Random(example).choices(WORDS, k=length)
    if guarantee != "lossless":
        own = random.Random(example + spec)
        parts = own.randrange(length)
        words[parts:] = own.choices(WORDS, k=length - parts)
    steps = max(1, math.ceil((length - 1) / per_step))
    kept = [1, *(len(range(i, length - 1, steps)) for i in range(steps))]
    drafted = [0, *(round(per_step * 1.5) for _ in range(steps))] if per_step > 1 else []
    times = [0.02 * cost, *(0.005 * cost * rng.uniform(0.85, 1.2) for _ in range(steps))]
    one = turn(kept, times, ids=[WORDS.index(word) for word in words], text=" ".join(words) + "\n</script><b>",
               prompt=f"Question {number} of {entry.spec}: " + " ".join(WORDS), drafted=drafted,
               accepted=[max(0, n - 1) for n in kept] if drafted else [], stop=rng.choice(["eos", "eos", "length"]),
               draft_forwards=drafted if spec.startswith("speculative") else [])
    score = None if entry.unscored else float(right < 0.55 + better)
    return record(entry.spec, example, spec, [one], score)
