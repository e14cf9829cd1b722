"""Tests a server that drafts against the same model without drafts: tokens, log-probs, scores and sampled texts."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from harness.backends.backend import Generated
from harness.backends.external import GenerationRequest
from harness.backends.openai_stream import Reply
from harness.backends.openai_watched import Watched
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.measure.acceptance import tau_pooled
from harness.plugins.registry import STRATEGIES
from harness.run.cells import Cell
from harness.run.plan import Plan, make
from harness.run.prepared_prompt import prepare, recorded_ids
from harness.run.runner import Runner
from harness.stats.paired import paired_test
from harness.stats.two_samples import Text, same_distribution
from harness.store.config import RunConfig, named_value
from harness.store.schema import Record
from harness.verify.answers import FAULTS, Parting, below_the_likeliest, parting, shifts, uncertainty
from harness.verify.checker import DISTRIBUTIONS, LENGTH, PROMPTS
from harness.verify.distribution import Distribution
from harness.verify.results import ALPHA, FirstDifference, Report, StrategyResult, adjusted

TIES = {"float32": 1e-3, "float16": 0.0625, "bfloat16": 0.5}  # four units in the last place of a logit from 16 to 32
GREEDY, AGAIN, DRAFTING = "greedy", "asked again without drafts", "tokens with drafts"
LOGPROBS, SCORES, SAMPLED = "log-probs of the tokens", "scores of {}", "sampled texts with drafts"
NO_DRAFTS = "By its counters the server at {} does not draft: both sides of this comparison are the same."
DRAFTS_TOO = ("The server that should not draft, at {}, does by its counters: start it without speculation, or name "
              "another one with --plain-url.")
LIKELY = ("log-prob", "likeliest tokens")  # figures of a sampled text
Key = tuple[str, str]  # task, example
Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Without:
    """How to reach the model without drafts: at another address, or with fields (NAME=VALUE) in the requests."""

    url: str | None = None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """The records of all examples by task and example, and the replies of the server by prompt."""

    records: Mapping[Key, Record]
    replies: Mapping[Prompt, Reply]

    @property
    def failed(self) -> list[Record]:
        """The records of failed samples."""
        return [record for record in self.records.values() if record.status == "failed"]


def verify_server(config: RunConfig, without: Without, distributions: Sequence[Distribution] | None = None,
                  draws: int = 96, tie: float | None = None, note: Callable[[str], None] = lambda text: None
                  ) -> Report:
    """Compare the server at --base-url with the same model `without` drafts.

    `draws` texts are sampled for each of the `distributions` (`DISTRIBUTIONS` when None). Log-probs at most `tie`
    apart can be swapped by rounding; when None it follows from the precision. Raises `UserError`.
    """
    if not (without.url or without.fields):
        raise UserError("verify compares a server that drafts with the same model without drafts: name a second server "
                        "with --plain-url, or with --plain-field NAME=VALUE the field with which a request turns "
                        "drafts off.")
    if config.strategies:
        raise UserError("verify --backend openai tests the drafts of the server itself: leave --strategy out.")
    tie = TIES.get(config.dtype or "", TIES["bfloat16"]) if tie is None else tie
    wanted = DISTRIBUTIONS if distributions is None else distributions
    with closing(make(replace(config, strategies=(GREEDY,)), "decodebench verify")) as plan:
        fields = dict(named_value("--plain-field", text) for text in without.fields)
        with (closing(Watched(config, plan.target, {})) as drafting,
              closing(Watched(replace(config, base_url=without.url or config.base_url), plan.target, fields)) as plain):
            return _Servers(plan, plain, drafting, tie, note).report(wanted, draws, bool(without.url))


class _Servers:
    """The comparison of a server that drafts with a plain one, with the tasks of a plan."""

    def __init__(self, plan: Plan, plain: Watched, drafting: Watched, tie: float, note: Callable[[str], None]) -> None:
        self.plan, self.plain, self.drafting, self.tie, self.note = plan, plain, drafting, tie, note
        self.has_logprobs = plain.has_logprobs and drafting.has_logprobs
        self.examples = {(task.spec(), one.id): (task, one) for task, all_ in plan.tasks for one in all_}

    def report(self, distributions: Sequence[Distribution], draws: int, two: bool) -> Report:
        """Run every test."""
        config = self.plan.config
        plain, again, drafted = (self._greedy(server, words) for server, words in (
            (self.plain, "without drafts"), (self.plain, "without drafts, again"), (self.drafting, "with drafts")))
        findings = [self._tokens(AGAIN, plain, again, control=True), self._tokens(DRAFTING, plain, drafted),
                    self._logprobs(plain, drafted), *self._scores(plain, drafted)]
        prompts = self._uncertain_prompts(plain)
        findings += [self._sampled(one, prompts, draws) for one in distributions if prompts]
        where = self.plain.connection.where if two else "the same server with " + ", ".join(
            f"{name}={value}" for name, value in self.plain.fields.items())
        return Report(
            model=self.plan.target.name, draft=None, dtype=config.dtype or "", backend="openai",
            concurrency=config.concurrency, seed=config.seed, tie=self.tie, findings=_named(adjusted(findings)),
            skipped={}, warnings=self._warnings(two), tokens=sum(_written(reply) for reply in plain.replies.values()),
            about=f"{self.drafting.connection.where} against {where}, {config.concurrency} requests at a time")

    def _warnings(self, two: bool) -> list[str]:
        drafting, plain = self.drafting.server, self.plain.server
        idle = drafting.counts and not drafting.speculates
        lines = [NO_DRAFTS.format(self.drafting.connection.where)] if idle else []
        if two and plain.speculates:
            lines.append(DRAFTS_TOO.format(self.plain.connection.where))
        return [*lines, *dict.fromkeys([*self.plain.notes, *self.drafting.notes])]

    def _greedy(self, server: Watched, words: str) -> Answers:
        """Decode and score every example greedily; raises `BackendLost` when the server no longer answers."""
        self.note(f"greedy answers {words}")
        server.taken()
        runner = Runner(replace(self.plan, backend=server), time.perf_counter)
        strategy, records = STRATEGIES.build(GREEDY), dict[Key, Record]()
        for task, examples in self.plan.tasks:
            found = runner.decode(Cell(task, examples, strategy, 0, 0, 0, 0), examples)
            records |= {record.key[:2]: record for record in found}
            runner.check()
        return Answers(records, {request.prompt: reply for request, reply in server.taken().items()})

    def _pairs(self, plain: Answers, other: Answers) -> Iterator[tuple[Record, int, Reply, Reply]]:
        """Yield the replies of both sides to each prompt that they share, with the plain record and the turn's number.
        """
        for key, record in plain.records.items():
            if record.status != "ok" or other.records[key].status != "ok":
                continue
            for turn in range(len(record.turns)):
                prompt = tuple(recorded_ids(self.plan.target, *self.examples[key], record.turns, turn))
                if prompt in plain.replies and prompt in other.replies:
                    yield record, turn, plain.replies[prompt], other.replies[prompt]

    def _tokens(self, name: str, plain: Answers, other: Answers, control: bool = False) -> StrategyResult:
        """Compare greedy answers with the plain ones; as a `control`, those of the plain server with its own."""
        found, seen, ends = list[tuple[Record, int, Parting]](), set[Key](), self.plan.target.eos
        for record, turn, one, two in self._pairs(plain, other):
            if record.key[:2] not in seen and (place := parting(one, two, ends, self.tie)):
                seen.add(record.key[:2])
                found.append((record, turn, place))
        causes, failed = {place.cause for _, _, place in found}, [*plain.failed, *other.failed]
        undecided = "unknown" in causes and self.plan.config.dtype == "float32"
        faults = [cause for cause in FAULTS if cause in causes]
        verdict = ("failed" if failed else "differs by itself" if control and causes else
                   "stop token dropped" if faults and faults[0] != "wrong token" else "wrong token" if faults else
                   "same except ties" if causes == {"tie"} else "differs, cause unknown" if causes else "same tokens")
        return self._result(
            name, verdict, not failed and (control or not (faults or undecided)), len(plain.records),
            same=len(plain.records) - len(found) - len(failed), prefix=min((p.at for _, _, p in found), default=None),
            tau=_tau(other) if not control else None, failed=len(failed), error=failed[0].error if failed else None,
            partings=[FirstDifference(task=record.task, example=record.example, turn=turn, at=place.at,
                                      margin=place.gap and place.gap.margin, off=place.gap and place.gap.off,
                                      cause=place.cause, said=place.said()) for record, turn, place in found])

    def _logprobs(self, plain: Answers, drafted: Answers) -> StrategyResult:
        """Test that greedy tokens are the likeliest by their log-probs, which do not depend on drafts."""
        below, moved = list[float](), list[float]()
        for _, _, one, two in self._pairs(plain, drafted):
            below += below_the_likeliest(two)
            moved += shifts(one, two)
        if not below and not moved:
            return self._result(LOGPROBS, "no log-probs", True, 0, remarks=["a server returns no log-probs: margins "
                                                                            "are unknown, and ties are not told"])
        wrong = sum(gap > self.tie for gap in below)
        shifted = sum(gap > 2 * self.tie for gap in moved)  # one logit moves by a tie, and the sum of all by another
        said = f"{wrong} tokens of {len(below)} are not the likeliest by the log-probs of the server itself"
        remarks = [said] if wrong else []
        if shifted:
            remarks.append(f"the log-probs of {shifted} of {len(moved)} tokens differ by up to {max(moved):.3g} with "
                           "and without drafts")
        verdict = "not the likeliest" if wrong else "log-probs differ" if shifted else "log-probs agree"
        return self._result(LOGPROBS, verdict, not remarks, len(moved), same=len(moved) - shifted, remarks=remarks)

    def _scores(self, plain: Answers, drafted: Answers) -> Iterator[StrategyResult]:
        """Test whether the scores on each task differ, paired by example (McNemar's test for scores of 0 and 1)."""
        for task, _ in self.plan.tasks:
            pairs = [(record.scores[task.headline], other.scores[task.headline]) for key, record in
                     plain.records.items() if key[0] == task.spec() and (other := drafted.records[key])
                     and task.headline in record.scores and task.headline in other.scores]
            if pairs:
                gaps = [after - before for before, after in pairs]
                changed = sum(gap != 0 for gap in gaps)
                means = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
                said = (f"{task.headline} {means[1]:.3g} with drafts, {means[0]:.3g} without; of {len(pairs)} answers "
                        f"{sum(gap > 0 for gap in gaps)} are better and {sum(gap < 0 for gap in gaps)} worse")
                yield self._result(SCORES.format(task.spec()), "scores agree", True, len(pairs),
                                   same=len(pairs) - changed, p_value=paired_test(gaps, range(len(pairs))),
                                   remarks=[said] if changed else [])

    def _uncertain_prompts(self, plain: Answers) -> list[Prompt]:
        """Return the prompts whose first tokens are least certain, where a wrong distribution shows best."""
        fitting = list[tuple[float, Prompt]]()
        longest = min(self.plain.context, self.drafting.context) - LENGTH
        for task, example in self.examples.values():
            try:
                prompt = prepare(self.plan.config, self.plan.target, longest, task, example, []).prompt
            except UserError:
                continue  # too long
            reply = plain.replies.get(prompt)
            fitting.append((uncertainty(reply.logprobs[:LENGTH]) if reply else 0.0, prompt))
        return [prompt for _, prompt in sorted(fitting, key=lambda pair: -pair[0])[:PROMPTS]]

    def _sampled(self, distribution: Distribution, prompts: Sequence[Prompt], draws: int) -> StrategyResult:
        """Test whether texts that are sampled with drafts follow the distribution of those sampled without."""
        self.note(f"sampled texts at {distribution}")
        sides = [[self._draw(server, side, distribution, prompt, range(place, draws, len(prompts)))
                  for place, prompt in enumerate(prompts)]
                 for side, server in enumerate((self.plain, self.drafting))]
        errors = [one for side in sides for group in side for one in group if isinstance(one, Exception)]
        plain, drafting = ([[one for one in group if isinstance(one, Text)] for group in side] for side in sides)
        p_value, tests = same_distribution(list(zip(plain, drafting, strict=True)), LIKELY if self.has_logprobs else (),
                                           seed=self.plan.config.seed)
        return self._result(SAMPLED, "failed" if errors else "same distribution", not errors, draws,
                            temperature=str(distribution), p_value=p_value, tests=tests, failed=len(errors),
                            remarks=[_said(plain, drafting, tests)], error=str(errors[0]) if errors else None)

    def _draw(self, server: Watched, side: int, distribution: Distribution, prompt: Prompt,
              numbers: range) -> list[Text | Exception]:
        """Sample texts of at most `LENGTH` tokens; the first one is of the prefill and is never drafted."""
        spec = f"top_p:p={distribution.p},temperature={distribution.temperature}"
        requests = [GenerationRequest(prompt, LENGTH, PhiloxStream(self.plan.config.seed, side, spec, number).number)
                    for number in numbers]
        server.taken()
        found = server.generate(STRATEGIES.build(spec), requests, self.plan.config.concurrency) if requests else []
        replies = server.taken()
        return [one if isinstance(one, Exception) else self._text(one, replies[request])
                for request, one in zip(requests, found, strict=True)]

    def _text(self, answer: Generated, reply: Reply) -> Text:
        """Return the token ids of a sampled text, those of the tokenizer here if the server tells none, and how likely
        they are: their mean log-prob, and the share of them that are the likeliest.
        """
        ids = answer.tokens if answer.text is None else self.plan.target.tokenizer(
            answer.text, add_special_tokens=False)["input_ids"]
        if not self.has_logprobs:
            return Text(ids)
        likeliest, count = sum(gap <= 0 for gap in below_the_likeliest(reply)), max(1, len(reply.logprobs))
        return Text(ids, (-uncertainty(reply.logprobs), likeliest / count))

    def _result(self, name: str, verdict: str, ok: bool, total: int, **more: Any) -> StrategyResult:
        return StrategyResult(**{"strategy": GREEDY, "name": name, "temperature": "0", "verdict": verdict, "ok": ok,
                                 "total": total, **more})


def _named(findings: Sequence[StrategyResult]) -> list[StrategyResult]:
    """Return the results with a verdict on scores where Holm's correction rejected that they are equal."""
    before = SCORES.format("")
    return [one.model_copy(update={"verdict": "scores differ"})
            if one.name.startswith(before) and not one.ok else one for one in findings]


def _said(plain: Sequence[Sequence[Text]], drafting: Sequence[Sequence[Text]], tests: Mapping[str, float]) -> str:
    """Tell how much the texts of both sides vary, by which a temperature that is ignored is known."""
    sides = [[text for group in side for text in group] for side in (drafting, plain)]
    kinds = [sum(len({tuple(text.units) for text in group}) for group in side) for side in (drafting, plain)]
    said = f"{kinds[0]} of {len(sides[0])} texts are different with drafts, {kinds[1]} of {len(sides[1])} without"
    colder = kinds[0] < kinds[1] and tests["alike"] < ALPHA
    if LIKELY[1] in tests:
        shares = [100 * sum(text.figures[1] for text in side) / max(1, len(side)) for side in sides]
        said += f"; {shares[0]:.0f} % of their tokens are the likeliest with drafts, {shares[1]:.0f} % without"
        colder = shares[0] > shares[1] and tests[LIKELY[1]] < ALPHA
    return f"{said}: with drafts the server samples as if the temperature were lower" if colder else said


def _written(reply: Reply) -> int:
    return reply.counted.completion_tokens if reply.counted else len(reply.ids)


def _tau(answers: Answers) -> float | None:
    """Return tokens per step if the server tells the accepted drafts of its answers, else None: chunks are no steps."""
    steps = [turn.steps for record in answers.records.values() for turn in record.turns]
    later = [count for one in steps if one.accepted for count in one.tokens[1:]]
    return tau_pooled(sum(later), len(later)) if later else None
