"""Tests the guarantees of strategies: greedy's tokens at temperature 0, the target's distribution above it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch

from harness.backends.backend import Generated, Sample, TurnRequest, single
from harness.decoding.accept import rejection
from harness.decoding.loop import one_by_one
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.kept_prefix import pin
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.measure.acceptance import tau_pooled
from harness.models.encoder_decoder import refuse_encoder
from harness.models.loading import find
from harness.models.prompts import encode
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES, add_plugin
from harness.plugins.strategy import Request, Strategy
from harness.run.cells import Cell
from harness.run.divergence import first_difference, margin
from harness.run.loading import model_dtype
from harness.run.plan import COPIED, Plan, in_float32, make
from harness.run.prepared_prompt import end_of, recorded_ids
from harness.run.runner import Runner
from harness.store.config import RunConfig
from harness.store.schema import Record
from harness.verify.distribution import Distribution, Evidence, uncached_logits
from harness.verify.results import TIE, FirstDifference, Report, StrategyResult, adjusted

DISTRIBUTIONS = (Distribution(1.0), Distribution(0.7, 0.9))
PROMPTS = 3      # prompts to sample after
LENGTH = 12      # tokens of a sampled sequence
ROUNDING = 8     # without float32 logits, a tie is at most this many units in the last place of the largest logit
BATCH = 8        # samples share their prompt's prefill, so the batch may be larger than that of answers by this factor
SAMPLERS = ("temperature", "top_p")
NO_GUARANTEE = "guarantees neither greedy's tokens nor the target's distribution"
NO_COPY = (f"the models have more than {COPIED:,} parameters, so no float32 copy was loaded: no distribution was "
           "tested, and a tie is what the rounding of {dtype} explains; --dtype float32 tests everything")


@dataclass(frozen=True)
class StrategyChecks:
    """A strategy to test: at temperature 0 (`exact`), and with each distribution above it (`sampled`)."""

    spec: str
    exact: Strategy | None
    sampled: tuple[tuple[Strategy, Distribution], ...] = ()

    def variants(self) -> Iterator[Strategy]:
        """Yield the strategy at every temperature to test."""
        yield from [self.exact] if self.exact else []
        yield from (strategy for strategy, _ in self.sampled)


def verify(config: RunConfig, distributions: Sequence[Distribution] | None = None, draws: int = 96,
           note: Callable[[str], None] = lambda text: None) -> Report:
    """Test every strategy of `config`, or all that have a guarantee if it names none; `note` gets each spec.

    `distributions` replaces `DISTRIBUTIONS`; `draws` sequences are sampled for each. Raises `UserError`.
    """
    checks, skipped = _strategies_to_test(config, distributions)
    specs = tuple(strategy.spec() for check in checks for strategy in check.variants())
    refuse_encoder(config.model, find(config.model)[1])
    with closing(make(replace(config, strategies=specs or (config.baseline,)), "decodebench verify")) as plan:
        return _verified(plan, checks, skipped, draws, note)


def _verified(plan: Plan, checks: list[StrategyChecks], skipped: dict[str, str], draws: int,
              note: Callable[[str], None]) -> Report:
    config, reasons = plan.config, {e.spec: e.unsupported for e in plan.manifest.strategies if e.unsupported}
    for check in checks:
        if reason := next((reasons[s.spec()] for s in check.variants() if s.spec() in reasons), None):
            skipped[check.spec] = reason
    checks = [check for check in checks if check.spec not in skipped]
    checker = Checker(plan, precise := in_float32(plan), draws)
    findings = [checker.control()]
    for check in checks:
        note(check.spec)
        if check.exact and check.exact.spec() != config.baseline:
            findings.append(checker.exact(check.exact))
        findings += [checker.sampled(strategy, distribution) for strategy, distribution in check.sampled if precise]
    if precise and precise is not plan:
        precise.close()
    return Report(model=plan.target.name, draft=plan.draft.name if plan.draft else None, dtype=model_dtype(config),
                  backend=config.backend, concurrency=config.concurrency, seed=config.seed,
                  findings=adjusted(findings), skipped=skipped,
                  warnings=[*plan.backend.warnings, *([] if precise else [NO_COPY.format(dtype=config.dtype)])],
                  tokens=sum(len(turn.tokens) for record in checker.base.values() for turn in record.turns))


def _strategies_to_test(config: RunConfig, distributions: Sequence[Distribution] | None
           ) -> tuple[list[StrategyChecks], dict[str, str]]:
    """Return the strategies to test, and those that have no guarantee, with the reason."""
    for path in config.plugins:
        add_plugin(path)
    names = [name for name in STRATEGIES.names() if _has_guarantee(config, STRATEGIES.get(name))]
    checks, skipped = list[StrategyChecks](), dict[str, str]()
    for spec in dict.fromkeys(config.strategies or names):
        strategy = STRATEGIES.build(spec)
        if not _has_guarantee(config, strategy):
            skipped[spec] = NO_GUARANTEE
            continue
        wanted = (_own_distribution(strategy) or DISTRIBUTIONS) if distributions is None else distributions
        wanted = [one if "p" in strategy.knobs() else Distribution(one.temperature) for one in wanted]
        sampled = {s.spec(): (s, one) for one in wanted if "temperature" in strategy.knobs()
                   and (s := _with_temperature(strategy, one.temperature, one.p))}
        checks.append(StrategyChecks(spec, _with_temperature(strategy, 0.0, None), tuple(sampled.values())))
    return checks, skipped


def _has_guarantee(config: RunConfig, strategy: Strategy | type[Strategy]) -> bool:
    """Return whether a strategy has a guarantee; plain samplers do on another backend, whose sampler is tested."""
    return strategy.guarantee != "changes-output" or (config.backend != "transformers" and strategy.name in SAMPLERS)


def _own_distribution(strategy: Strategy) -> tuple[Distribution, ...]:
    """Return the distribution that the strategy's knobs set, or nothing at temperature 0."""
    values = strategy.values()
    temperature, top_p = float(values.get("temperature") or 0), float(values.get("p") or 1)
    return (Distribution(temperature, top_p),) if temperature else ()


def _with_temperature(strategy: Strategy, temperature: float, p: float | None) -> Strategy | None:
    """Return the strategy with these knobs if it has them; None if it refuses their values."""
    knobs = {"temperature": temperature, **({"p": p} if p is not None else {})}
    try:
        return replace(strategy, **{key: value for key, value in knobs.items() if key in strategy.knobs()})
    except UserError:
        return None


class Checker:
    """Runs the tests with the plan's models; `precise` has the same models in float32, None if they are too large."""

    def __init__(self, plan: Plan, precise: Plan | None, draws: int) -> None:
        self.plan, self.precise, self.draws, self.replayed = plan, precise or plan, draws, precise is not None
        self.baseline = STRATEGIES.build(plan.config.baseline)
        self.examples = {(task.spec(), e.id): (task, e) for task, all_ in plan.tasks for e in all_}
        self.base = {record.key[:2]: record for record in self._records(self.baseline, 1)}
        self.prompts = list[tuple[int, ...]]()

    def control(self) -> StrategyResult:
        """Compare batched greedy with greedy at batch size 1, and that with a forward pass without cache."""
        finding = self.exact(self.baseline)
        off = [wrong for record in self.base.values() if record.status == "ok"
               and (wrong := self._logit_gap(record)) is not None]
        if off and finding.ok:
            finding = finding.model_copy(update={"ok": False, "verdict": "differs from a forward pass without cache"})
        return finding

    def exact(self, strategy: Strategy) -> StrategyResult:
        """Test that the strategy gives greedy's tokens on every prompt, and the same again after other prompts."""
        first = self._first_examples(strategy)
        records = list(self._records(strategy, self.plan.config.concurrency))
        again = _changed_field(first, self._first_examples(strategy), strategy)
        failed = [record for record in [*records, *first] if record.status == "failed"]
        pairs = [(record, self.base[record.key[:2]]) for record in records if record.status == "ok"
                 and self.base[record.key[:2]].status == "ok"]
        partings = [self._first_difference(record, base, *place) for record, base in pairs
                    if (place := first_difference(record, base))]
        causes = {parting.cause for parting in partings}
        verdict = ("failed" if failed else "wrong token" if "algorithm" in causes else
                   "keeps state" if again else "same except where it stops" if "stop rule" in causes else
                   "same except ties" if causes else "same tokens")
        return StrategyResult(
            strategy=strategy.spec(), temperature="0", verdict=verdict, total=len(records),
            ok=not failed and "algorithm" not in causes and not again, same=len(pairs) - len(partings),
            prefix=min((_prefix_length(self.base[p.task, p.example], p) for p in partings), default=None),
            tau=_tau(turn.steps.tokens for record in records for turn in record.turns), partings=partings, again=again,
            failed=len(failed), error=failed[0].error if failed else None)

    def _records(self, strategy: Strategy, concurrency: int, few: int | None = None) -> Iterator[Record]:
        """Decode the first `few` examples of each task without scoring; prefixes are shared above batch size 1."""
        config = replace(self.plan.config, concurrency=concurrency, share_prefix=concurrency > 1)
        runner = Runner(replace(self.plan, config=config), time.perf_counter)
        runner.unscored = dict.fromkeys(runner.unscored, "not scored here")
        for task, examples in self.plan.tasks[:few]:
            yield from runner.decode(Cell(task, examples[:few], strategy, 0, 0, 0, 0), examples[:few])

    def _first_examples(self, strategy: Strategy) -> list[Record]:
        return list(self._records(strategy, 1, few=1))

    def _first_difference(self, record: Record, base: Record, turn: int, at: int) -> FirstDifference:
        gap = _margin(self.plan, *self.examples[record.key[:2]], record, base, turn, at)
        off, a, b = self._logit_gap(record), record.turns[turn], base.turns[turn]
        ended = at >= min(len(a.tokens), len(b.tokens))
        early = ended and len(a.tokens) < len(b.tokens) and a.stop == "ended"
        cause = "algorithm" if off is not None or early else "stop rule" if ended else "tie"
        return FirstDifference(task=record.task, example=record.example, turn=turn, at=at, margin=gap, off=off,
                               cause=cause)

    def _logit_gap(self, record: Record) -> float | None:
        """Return the logit gap of the first token that is not the likeliest, None if rounding explains all of them."""
        task, example = self.examples[record.key[:2]]
        for number, turn in enumerate(record.turns):
            prompt = recorded_ids(self.plan.target, task, example, record.turns, number)
            text, new = [*prompt, *turn.tokens], len(turn.tokens)
            logits = uncached_logits(self.precise.target.engine, text, new)
            slack = TIE
            if not self.replayed:
                slack = ROUNDING * torch.finfo(self.plan.target.engine.model.dtype).eps * float(logits.abs().max())
            elif self.precise is not self.plan:  # both logits have the rounding error of the lower precision
                gap = uncached_logits(self.plan.target.engine, text, new).to(logits.device) - logits
                slack = max(TIE, 2 * float((gap - gap.mean(-1, keepdim=True)).abs().max()))
            tokens = torch.tensor(turn.tokens, device=logits.device)
            below = logits.amax(-1) - logits.gather(-1, tokens[:, None])[:, 0]
            if bool((below > slack).any()):
                return float(below[below > slack][0])
        return None

    def sampled(self, strategy: Strategy, distribution: Distribution) -> StrategyResult:
        """Test whether the tokens that a strategy samples follow `distribution`."""
        plan, evidence, steps, errors = self.precise, Evidence(distribution), list[list[int]](), list[str]()
        draft = plan.draft.engine if plan.draft and "draft" in strategy.needs else None
        self.prompts = self.prompts or self._uncertain_prompts()
        for number, prompt in enumerate(self.prompts):
            own = range(number, self.draws, len(self.prompts))
            done = self._draw(strategy, prompt, [PhiloxStream(plan.config.seed, strategy.spec(), i) for i in own])
            answers = [answer for answer in done if isinstance(answer, Generated)]
            texts = [answer.tokens for answer in answers if len(answer.tokens) == LENGTH]
            errors += [_reason(one) for one in done if not isinstance(one, Generated) or len(one.tokens) < LENGTH]
            steps += [answer.steps.tokens for answer in answers]
            if texts:
                evidence.add(plan.target.engine, draft, prompt, texts, plan.config.seed)
        shares = {"rank": evidence.ranks, "copied": evidence.copies, "draft": evidence.drafts}
        return StrategyResult(
            strategy=strategy.spec(), temperature=str(distribution), ok=not errors, total=self.draws, tau=_tau(steps),
            verdict="failed" if errors else "distribution kept", tests=evidence.tests(),
            p_value=evidence.p_value() if evidence.tokens else None, impossible=evidence.impossible,
            edge=evidence.edge, failed=len(errors), error=errors[0] if errors else None,
            shares={kind: {name: (float(seen), float(due)) for name, seen, due
                           in zip(share.names, share.seen, share.expected, strict=True)}
                    for kind, share in shares.items() if share.expected.any()})

    @torch.inference_mode()
    def _draw(self, strategy: Strategy, prompt: tuple[int, ...], streams: Sequence[PhiloxStream]
              ) -> Sequence[Generated | Exception]:
        """Sample one sequence of `LENGTH` tokens after `prompt` for each stream, without a stop rule."""
        rule, backend = StopRule(self.precise.target.tokenizer, prompt, frozenset(), ()), self.precise.backend
        samples = [Sample(strategy, partial(single, TurnRequest(Request(prompt, LENGTH, stream), rule, stream.number)))
                   for stream in streams]
        backend.share(prompt)
        try:
            return backend.decode(samples, BATCH * self.precise.config.concurrency, time.perf_counter).results
        except UserError as error:  # a backend that no longer answers is a result, too
            return [error] * len(streams)

    @torch.inference_mode()
    def _uncertain_prompts(self) -> list[tuple[int, ...]]:
        """Return the prompts with the highest entropy of the next tokens, where a wrong distribution shows best."""
        plan, entropies = self.precise, dict[tuple[int, ...], float]()
        longest = min(model.engine.max_len for model in (plan.target, plan.draft) if model) - LENGTH
        for task, examples in plan.tasks:
            for example in examples:
                prompt = tuple(end_of(plan.target, encode(plan.target, task.prompt(example, [])), longest))
                _prefill(plan, prompt)
                texts = run_batched([plan.target.engine], [partial(_plain_sample, plan, prompt, i) for i in range(8)])
                rows = torch.cat([uncached_logits(plan.target.engine, [*prompt, *text], LENGTH) for text in texts
                                  if isinstance(text, list)])
                entropies[prompt] = -float((rows.softmax(-1) * rows.log_softmax(-1)).sum(-1).mean())
        return sorted(entropies, key=lambda prompt: -entropies[prompt])[:PROMPTS]


def _plain_sample(plan: Plan, prompt: tuple[int, ...], number: int) -> list[int]:
    session, tokens = Session(plan.target.engine), list[int]()
    try:
        for step in one_by_one(session, rejection, Request(prompt, LENGTH, PhiloxStream("prompt", number))):
            tokens += step
            if len(tokens) == LENGTH:
                break
    finally:
        session.close()
    return tokens


def _prefill(plan: Plan, prompt: tuple[int, ...]) -> None:
    """Prefill the prompt once for all sequences that continue it."""
    for model in filter(None, (plan.target, plan.draft)):
        model.engine.unpin()
        try:
            pin(model.engine, list(prompt))
        except CacheFull:  # then every sequence prefills it
            model.engine.unpin()


_margin = torch.inference_mode()(margin)


def _changed_field(first: Sequence[Record], then: Sequence[Record], strategy: Strategy) -> str | None:
    """Name the first field in which two answers to the same prompts differ; a stateful strategy may change counts."""
    for a, b in zip(first, then, strict=True):
        for one, two in zip(a.turns, b.turns, strict=False):
            if one.tokens != two.tokens:
                return "tokens"
            if not strategy.stateful:
                before, after = (turn.steps.model_dump(exclude={"seconds"}) for turn in (one, two))
                for name in before:
                    if before[name] != after[name]:
                        return name
    return None


def _prefix_length(base: Record, parting: FirstDifference) -> int:
    """Count the tokens of all turns before the first difference."""
    return sum(len(turn.tokens) for turn in base.turns[:parting.turn]) + parting.at


def _tau(steps: Iterable[Sequence[int]]) -> float | None:
    after = [count for tokens in steps for count in tokens[1:]]
    return tau_pooled(sum(after), len(after)) if after else None


def _reason(done: Generated | Exception) -> str:
    if isinstance(done, Exception):
        return f"{type(done).__name__}: {done}"
    return f"ended by itself after {len(done.tokens)} of {LENGTH} tokens"
