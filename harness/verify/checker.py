"""Do lossless strategies keep their promise? Greedy's tokens at temperature 0, the target's law above it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch
from pydantic import Field

from harness.decoding.accept import rejection
from harness.decoding.loop import one_by_one
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session, pin
from harness.errors import UserError
from harness.models.prompts import encode
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES, add_plugin
from harness.plugins.strategy import Request, Strategy
from harness.run.divergence import margin, parting
from harness.run.native_answers import drawn
from harness.run.plan import Cell, Plan, make
from harness.run.runner import Runner
from harness.run.trace import Trace, trace
from harness.stats.multiple import holm
from harness.store.config import RunConfig
from harness.store.schema import Record, Stored
from harness.verify.distribution import Evidence, Law, plain

TIE = 1e-3       # logits that are no further apart may swap places in float32
ALPHA = 1e-3     # chance that any of the correct laws of one report is rejected
LAWS = (Law(1.0), Law(0.7, 0.9))
PROMPTS = 3      # prompts that draws start from
LENGTH = 12      # tokens of a draw
BATCH = 8        # draws share their prompt, so that so many more are decoded at a time than answers
SAMPLERS = ("temperature", "top_p")
NO_PROMISE = "promises neither greedy's tokens nor the target's law"


class Parting(Stored):
    """Where an answer parts from greedy's: example, turn and token, distance of the two logits, and why.

    `margin` is None when one answer had ended; `off` is how far below the likeliest token the first wrong one is, in
    a plain float32 reading, None when there is none.
    """

    task: str
    example: str
    turn: int
    at: int
    margin: float | None
    off: float | None
    cause: str


class Finding(Stored):
    """One strategy at one temperature: a verdict in words, whether it passes, and what it rests on.

    `same` of `total` answers are greedy's; `prefix` is the shortest exact start (tokens) among those that part. `tau`
    is tokens a step after the first. `p_value` is the law's, `adjusted` is Holm's for all laws of the report.
    """

    strategy: str
    temperature: str
    verdict: str
    ok: bool
    total: int
    same: int | None = None
    prefix: int | None = None
    tau: float | None = None
    partings: list[Parting] = Field(default_factory=list)
    again: str | None = None
    p_value: float | None = None
    adjusted: float | None = None
    tests: dict[str, float] = Field(default_factory=dict)
    shares: dict[str, dict[str, tuple[float, float]]] = Field(default_factory=dict)
    impossible: int = 0
    edge: int = 0
    failed: int = 0
    error: str | None = None


class Report(Stored):
    """All findings, the set-up they hold for, and what could not be checked, with the reason."""

    model: str
    draft: str | None
    dtype: str
    backend: str = "transformers"
    warnings: list[str] = Field(default_factory=list)
    concurrency: int
    seed: int
    tie: float = TIE
    alpha: float = ALPHA
    tokens: int
    findings: list[Finding]
    skipped: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every promise that was checked is kept."""
        return all(finding.ok for finding in self.findings)


@dataclass(frozen=True)
class Case:
    """A strategy to check: at temperature 0, and under laws above it."""

    spec: str
    exact: Strategy | None
    sampled: tuple[tuple[Strategy, Law], ...] = ()

    def variants(self) -> Iterator[Strategy]:
        """All that must be run."""
        yield from [self.exact] if self.exact else []
        yield from (strategy for strategy, _ in self.sampled)


def verify(config: RunConfig, laws: Sequence[Law] | None = None, draws: int = 96,
           note: Callable[[str], None] = lambda text: None) -> Report:
    """Check every strategy of `config` (all that promise something when it names none); `note` is told what runs.

    `laws` replaces `LAWS`; `draws` texts are drawn under each. Raises `UserError` when something cannot be run.
    """
    cases, skipped = _cases(config, laws)
    specs = tuple(strategy.spec() for case in cases for strategy in case.variants())
    with closing(make(replace(config, strategies=specs or (config.baseline,)), "decodebench verify")) as plan:
        return _verified(plan, cases, skipped, draws, note)


def _verified(plan: Plan, cases: list[Case], skipped: dict[str, str], draws: int, note: Callable[[str], None]
              ) -> Report:
    config, reasons = plan.config, {e.spec: e.unsupported for e in plan.manifest.strategies if e.unsupported}
    for case in cases:
        if reason := next((reasons[s.spec()] for s in case.variants() if s.spec() in reasons), None):
            skipped[case.spec] = reason
    cases = [case for case in cases if case.spec not in skipped]
    precise = plan if plan.config.dtype == "float32" else make(replace(plan.config, dtype="float32"), "")
    checker = Checker(plan, precise, draws)
    findings = [checker.control()]
    for case in cases:
        note(case.spec)
        if case.exact and case.exact.spec() != config.baseline:
            findings.append(checker.exact(case.exact))
        findings += [checker.sampled(strategy, law) for strategy, law in case.sampled]
    return Report(model=plan.target.name, draft=plan.draft.name if plan.draft else None, dtype=config.dtype,
                  backend=config.backend, concurrency=config.concurrency, seed=config.seed,
                  findings=adjusted(findings), skipped=skipped, warnings=plan.native.warnings if plan.native else [],
                  tokens=sum(len(turn.tokens) for record in checker.base.values() for turn in record.turns))


def adjusted(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with Holm's p-values, and those laws rejected that are too unlikely."""
    tested = [i for i, finding in enumerate(findings) if finding.p_value is not None]
    done = list(findings)
    for i, value in zip(tested, holm([findings[i].p_value or 0.0 for i in tested]), strict=True):
        bad = value < ALPHA
        verdict = "impossible tokens" if bad and findings[i].impossible else "law rejected"
        done[i] = findings[i].model_copy(update={"adjusted": value, "ok": findings[i].ok and not bad,
                                                 **({"verdict": verdict} if bad else {})})
    return done


def _cases(config: RunConfig, laws: Sequence[Law] | None) -> tuple[list[Case], dict[str, str]]:
    """What to check, and what cannot be, with the reason."""
    for path in config.plugins:
        add_plugin(path)
    names = [name for name in STRATEGIES.names() if _promises(config, STRATEGIES.get(name))]
    cases, skipped = list[Case](), dict[str, str]()
    for spec in dict.fromkeys(config.strategies or names):
        strategy = STRATEGIES.build(spec)
        if not _promises(config, strategy):
            skipped[spec] = NO_PROMISE
            continue
        wanted = [] if "temperature" not in strategy.knobs() else laws if laws is not None else _own(strategy) or LAWS
        sampled = {s.spec(): (s, law) for each in wanted if (law := _law(strategy, each))
                   and (s := _at(strategy, law.temperature, law.p))}
        cases.append(Case(spec, _at(strategy, 0.0, None), tuple(sampled.values())))
    return cases, skipped


def _promises(config: RunConfig, strategy: Strategy | type[Strategy]) -> bool:
    """Another backend's plain samplers promise a law, too."""
    return strategy.guarantee != "changes-output" or (config.backend != "transformers" and strategy.name in SAMPLERS)


def _own(strategy: Strategy) -> tuple[Law, ...]:
    """The law that a strategy's own knobs ask for, if it is one."""
    values = strategy.values()
    heat, mass = float(values["temperature"] or 0), float(values.get("p") or 1)
    return (Law(heat, mass),) if heat else ()


def _law(strategy: Strategy, law: Law) -> Law:
    return law if "p" in strategy.knobs() else Law(law.temperature)


def _at(strategy: Strategy, temperature: float, p: float | None) -> Strategy | None:
    """The strategy with these knobs where it has them; None when it does not allow them."""
    knobs = {"temperature": temperature, **({"p": p} if p is not None else {})}
    try:
        return replace(strategy, **{key: value for key, value in knobs.items() if key in strategy.knobs()})
    except UserError:
        return None


class Checker:
    """Runs the checks with the plan's models; `precise` holds them in float32."""

    def __init__(self, plan: Plan, precise: Plan, draws: int) -> None:
        self.plan, self.precise, self.draws = plan, precise, draws
        self.baseline = STRATEGIES.build(plan.config.baseline)
        self.examples = {(task.spec(), e.id): (task, e) for task, all_ in plan.tasks for e in all_}
        self.base = {record.key[:2]: record for record in self._records(self.baseline, 1)}
        self.prompts = list[tuple[int, ...]]()

    def control(self) -> Finding:
        """Greedy with others beside it against greedy alone, and that against plain readings without a cache."""
        finding = self.exact(self.baseline)
        off = [wrong for record in self.base.values() if record.status == "ok"
               and (wrong := self._wrong(record)) is not None]
        if off and finding.ok:
            finding = finding.model_copy(update={"ok": False, "verdict": "parts from a plain reading"})
        return finding

    def exact(self, strategy: Strategy) -> Finding:
        """Greedy's tokens on every prompt, and the same again after other prompts."""
        first = self._first(strategy)
        records = list(self._records(strategy, self.plan.config.concurrency))
        again = _changed(first, self._first(strategy), strategy)
        failed = [record for record in [*records, *first] if record.status == "failed"]
        pairs = [(record, self.base[record.key[:2]]) for record in records if record.status == "ok"
                 and self.base[record.key[:2]].status == "ok"]
        partings = [self._parting(mine, other, *place) for mine, other in pairs if (place := parting(mine, other))]
        causes = {each.cause for each in partings}
        verdict = ("failed" if failed else "wrong token" if "algorithm" in causes else
                   "keeps state" if again else "same but for where it stops" if "stop rule" in causes else
                   "same but for ties" if causes else "same tokens")
        return Finding(
            strategy=strategy.spec(), temperature="0", verdict=verdict, total=len(records),
            ok=not failed and "algorithm" not in causes and not again, same=len(pairs) - len(partings),
            prefix=min((_before(self.base[p.task, p.example], p) for p in partings), default=None),
            tau=_tau(turn.steps.tokens for record in records for turn in record.turns), partings=partings, again=again,
            failed=len(failed), error=failed[0].error if failed else None)

    def _records(self, strategy: Strategy, concurrency: int, few: int | None = None) -> Iterator[Record]:
        """The answers to the first `few` examples of each task, unscored; prefixes are shared unless alone."""
        config = replace(self.plan.config, concurrency=concurrency, share_prefix=concurrency > 1)
        runner = Runner(replace(self.plan, config=config), time.perf_counter)
        runner.unscored = dict.fromkeys(runner.unscored, "not scored here")
        for task, examples in self.plan.tasks[:few]:
            yield from runner.decode(Cell(task, examples[:few], strategy, 0, 0, 0, 0), examples[:few])

    def _first(self, strategy: Strategy) -> list[Record]:
        return list(self._records(strategy, 1, few=1))

    def _parting(self, mine: Record, other: Record, turn: int, at: int) -> Parting:
        gap = _margin(self.plan, *self.examples[mine.key[:2]], mine, other, turn, at)
        off, a, b = self._wrong(mine), mine.turns[turn], other.turns[turn]
        ended = at >= min(len(a.tokens), len(b.tokens))
        early = ended and len(a.tokens) < len(b.tokens) and a.stop == "ended"
        cause = "algorithm" if off is not None or early else "stop rule" if ended else "tie"
        return Parting(task=mine.task, example=mine.example, turn=turn, at=at, margin=gap, off=off, cause=cause)

    def _wrong(self, record: Record) -> float | None:
        """How far the first token that is not the likeliest is below it, when rounding does not explain it."""
        task, example = self.examples[record.key[:2]]
        for number, turn in enumerate(record.turns):
            prompt = encode(self.plan.target, task.prompt(example, [t.text for t in record.turns[:number]]))
            text, new = [*prompt[-turn.prompt_tokens:], *turn.tokens], len(turn.tokens)
            logits = plain(self.precise.target.engine, text, new)
            slack = TIE
            if self.precise is not self.plan:  # two readings, each off by what this one is
                gap = plain(self.plan.target.engine, text, new).to(logits.device) - logits
                slack = max(TIE, 2 * float((gap - gap.mean(-1, keepdim=True)).abs().max()))
            tokens = torch.tensor(turn.tokens, device=logits.device)
            below = logits.amax(-1) - logits.gather(-1, tokens[:, None])[:, 0]
            if bool((below > slack).any()):
                return float(below[below > slack][0])
        return None

    def sampled(self, strategy: Strategy, law: Law) -> Finding:
        """Whether the tokens that a strategy draws follow `law`."""
        plan, evidence, steps, errors = self.precise, Evidence(law), list[list[int]](), list[str]()
        draft = plan.draft.engine if plan.draft and "draft" in strategy.needs else None
        self.prompts = self.prompts or self._uncertain()
        for number, prompt in enumerate(self.prompts):
            own = range(number, self.draws, len(self.prompts))
            done = self._drawn(strategy, prompt, [PhiloxStream(plan.config.seed, strategy.spec(), i) for i in own])
            texts = [each.tokens for each in done if isinstance(each, Trace) and len(each.tokens) == LENGTH]
            errors += [_reason(each) for each in done if not isinstance(each, Trace) or len(each.tokens) < LENGTH]
            steps += [each.steps.tokens for each in done if isinstance(each, Trace)]
            if texts:
                evidence.add(plan.target.engine, draft, prompt, texts, plan.config.seed)
        shares = {"rank": evidence.ranks, "copied": evidence.copies, "draft": evidence.drafts}
        return Finding(
            strategy=strategy.spec(), temperature=str(law), ok=not errors, total=self.draws, tau=_tau(steps),
            verdict="failed" if errors else "law kept", p_value=evidence.p_value() if evidence.tokens else None,
            tests=evidence.tests(), impossible=evidence.impossible, edge=evidence.edge, failed=len(errors),
            error=errors[0] if errors else None,
            shares={kind: {name: (float(seen), float(due)) for name, seen, due
                           in zip(each.names, each.seen, each.expected, strict=True)}
                    for kind, each in shares.items() if each.expected.any()})

    @torch.inference_mode()
    def _drawn(self, strategy: Strategy, prompt: tuple[int, ...], streams: Sequence[PhiloxStream]
               ) -> list[Trace | Exception]:
        """One text of `LENGTH` tokens after `prompt` for each stream; nothing ends a text before."""
        rule = StopRule(self.precise.target.tokenizer, prompt, frozenset(), ())
        if self.precise.native:
            return drawn(self.precise.native, strategy, prompt, rule, LENGTH, [stream.number for stream in streams])
        runner = Runner(self.precise, time.perf_counter)

        def job(stream: PhiloxStream) -> Trace | Exception:
            session = runner.session(strategy)
            try:
                return trace(strategy, session, Request(prompt, LENGTH, stream), rule, time.perf_counter)
            except CacheFull:
                raise
            except Exception as error:  # a strategy's own failure is a finding
                return error
            finally:
                session.close()
        _share(self.precise, prompt)
        return list(run_batched(runner.engines, [partial(job, stream) for stream in streams],
                             BATCH * self.precise.config.concurrency))

    @torch.inference_mode()
    def _uncertain(self) -> list[tuple[int, ...]]:
        """The prompts after which the target's next tokens are least certain: there a wrong law shows best."""
        plan, found = self.precise, dict[tuple[int, ...], float]()
        longest = min(engine.max_len for engine in Runner(plan, time.perf_counter).engines) - LENGTH
        for task, examples in plan.tasks:
            for example in examples:
                prompt = tuple(encode(plan.target, task.prompt(example, []))[-longest:])
                _share(plan, prompt)
                texts = run_batched([plan.target.engine], [partial(_sampled, plan, prompt, i) for i in range(8)])
                rows = torch.cat([plain(plan.target.engine, [*prompt, *text], LENGTH) for text in texts
                                  if isinstance(text, list)])
                found[prompt] = -float((rows.softmax(-1) * rows.log_softmax(-1)).sum(-1).mean())
        return sorted(found, key=lambda prompt: -found[prompt])[:PROMPTS]


def _sampled(plan: Plan, prompt: tuple[int, ...], number: int) -> list[int]:
    session, tokens = Session(plan.target.engine), list[int]()
    try:
        for step in one_by_one(session, rejection, Request(prompt, LENGTH, PhiloxStream("prompt", number))):
            tokens += step
            if len(tokens) == LENGTH:
                break
    finally:
        session.close()
    return tokens


def _share(plan: Plan, prompt: tuple[int, ...]) -> None:
    """Read the prompt once for all texts that go on from it."""
    for model in filter(None, (plan.target, plan.draft)):
        model.engine.unpin()
        try:
            pin(model.engine, list(prompt))
        except CacheFull:  # then every text reads it
            model.engine.unpin()


_margin = torch.inference_mode()(margin)


def _changed(first: Sequence[Record], then: Sequence[Record], strategy: Strategy) -> str | None:
    """What of the same prompts' answers depends on what ran in between; a strategy that learns may change counts."""
    for a, b in zip(first, then, strict=True):
        for one, two in zip(a.turns, b.turns, strict=False):
            if one.tokens != two.tokens:
                return "tokens"
            if not strategy.stateful:
                mine, other = (turn.steps.model_dump(exclude={"seconds"}) for turn in (one, two))
                for name in mine:
                    if mine[name] != other[name]:
                        return name
    return None


def _before(base: Record, parting: Parting) -> int:
    """Tokens of all turns up to where an answer parts."""
    return sum(len(turn.tokens) for turn in base.turns[:parting.turn]) + parting.at


def _tau(steps: Iterable[Sequence[int]]) -> float | None:
    after = [count for each in steps for count in each[1:]]
    return sum(after) / len(after) if after else None


def _reason(done: Trace | Exception) -> str:
    if isinstance(done, Exception):
        return f"{type(done).__name__}: {done}"
    return f"ended by itself after {len(done.tokens)} of {LENGTH} tokens"
