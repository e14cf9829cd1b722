"""Text metrics of a finished run: the log probabilities and MAUVE of its answers, computed by models and not timed."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.models.likelihood import AnswerScores, fitted, score_answers
from harness.models.loading import Model, load
from harness.models.prompts import encode
from harness.plugins.task import Example, Message, Task
from harness.run.loading import model_dtype
from harness.run.plan import Plan
from harness.run.prepared_prompt import recorded_ids
from harness.stats.mauve import SEEDS, mauve
from harness.store.schema import MauveScores, Record, TextMetrics, TextScore


class TextTurn(NamedTuple):
    """One turn: its prompt whole and as the model's token ids, and the answer as token ids and as text."""

    prompt: str | list[Message]
    ids: list[int]
    tokens: Sequence[int]
    text: str


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer or reference to score: the fields that identify it in the store, and its turns."""

    identity: dict[str, Any]
    turns: list[TextTurn]


def tasks_to_score(plan: Plan) -> list[Task]:
    """Return the tasks with text metrics: as configured, else open-ended tasks, or all if there are several samples.

    The list is empty if the model's weights are not loaded, or if an encoder reads its prompts.
    """
    config = plan.config
    return [task for task, _ in plan.tasks if plan.target.has_weights and
            "prompt" in plan.target.engine.offers and
            (task.open_ended or config.samples > 1 if config.texts is None else config.texts)]


def need_computing(plan: Plan, stored: TextMetrics | None) -> bool:
    """Return whether the text metrics of a task are not stored yet, or another scorer computed them."""
    tasks = {task.spec() for task in tasks_to_score(plan)}
    if not tasks or stored is None:
        return bool(tasks)
    return not tasks <= set(stored.tasks) or stored.scorer != _scorer_name(plan)


def compute(plan: Plan, records: Iterable[Record]) -> TextMetrics:
    """Compute the metrics of all answers and references with the evaluated model and with the scorer.

    Both models score an answer after its prompt. The evaluated model scores the decoded tokens including EOS; the
    scorer tokenizes the text itself. References are truncated to the maximum length of answers. A scorer other than the
    evaluated model is loaded in the run's precision.
    """
    own = _scorer_name(plan) == plan.target.name
    tasks = tasks_to_score(plan)
    answers = [*_references(plan, tasks), *_answers(plan, tasks, records)]
    evaluated = [[fitted(plan.target, turn.ids, turn.tokens) for turn in answer.turns] for answer in answers]
    scorer = plan.target if own else load(_scorer_name(plan), dtype=model_dtype(plan.config),
                                               device=plan.config.device, threads=plan.config.threads or 0)
    scored = [[fitted(scorer, encode(scorer, turn.prompt), _tokens(scorer, turn.text)) for turn in answer.turns]
              for answer in answers]
    flat, other = [text for turns in evaluated for text in turns], [text for turns in scored for text in turns]
    by_model = score_answers(plan.target, flat + other if own else flat)  # equal texts are scored once
    by_scorer = by_model if own else score_answers(scorer, other)
    scores = [_score(answer, [by_model[text] for text in one], [by_scorer[text] for text in other])
              for answer, one, other in zip(answers, evaluated, scored, strict=True)]
    features = [by_scorer[turns[-1]].feature.numpy() for turns in scored]
    return TextMetrics(scorer=scorer.name, own=own, tasks=[task.spec() for task in tasks], scores=scores,
                 likeness=list(_likeness(scores, features)))


def _scorer_name(plan: Plan) -> str:
    return plan.config.scorer or plan.target.name


def _tokens(model: Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _references(plan: Plan, tasks: Sequence[Task]) -> Iterator[ScoredAnswer]:
    for task, examples in plan.tasks:
        for example in examples if task in tasks else ():
            if example.reference:
                limit = plan.config.max_new_tokens or task.max_new_tokens
                tokens = _tokens(plan.target, example.reference)[:limit]
                text = plan.target.tokenizer.decode(tokens, skip_special_tokens=True,
                                                    clean_up_tokenization_spaces=False)
                identity = {"task": task.spec(), "example": example.id, "text": text,
                            "answer": _answer_hash(task, example, text)}
                prompt = task.prompt(example, [])
                yield ScoredAnswer(identity, [TextTurn(prompt, encode(plan.target, prompt), tokens, text)])


def _answers(plan: Plan, tasks: Sequence[Task], records: Iterable[Record]) -> Iterator[ScoredAnswer]:
    known = {(task.spec(), one.id): (task, one) for task, all_ in plan.tasks if task in tasks for one in all_}
    for record in records:
        if record.status != "ok" or (record.task, record.example) not in known or not record.turns:
            continue
        task, example = known[record.task, record.example]
        identity: dict[str, Any] = {name: getattr(record, name) for name in ("task", "example", "strategy", "sample",
                                                                             "repeat")}
        identity["answer"] = _answer_hash(task, example, record.turns[-1].text)
        texts = [one.text for one in record.turns]
        yield ScoredAnswer(identity, [
            TextTurn(task.prompt(example, texts[:turn]), recorded_ids(plan.target, task, example, record.turns, turn),
                     one.tokens or _tokens(plan.target, one.raw), one.text)
            for turn, one in enumerate(record.turns)])


def _answer_hash(task: Task, example: Example, text: str) -> str | None:
    """Return a short hash of the answer that the task extracts from `text`; it only serves comparisons."""
    answer = task.answer(example, text)
    return answer and hashlib.sha256(answer.encode()).hexdigest()[:12]


def _score(answer: ScoredAnswer, evaluated: Sequence[AnswerScores], scored: Sequence[AnswerScores]) -> TextScore:
    cosine = [one.cosine for one in scored if one.cosine is not None]
    return TextScore(
        **answer.identity, tokens=sum(len(one.best) for one in evaluated), logp=sum(one.logp for one in evaluated),
        greedy=_mean(evaluated, "greedy"), entropy=_mean(evaluated, "uncertainty"), uneven=_mean(evaluated, "uneven"),
        rep=_mean(evaluated, "rep"), scorer_tokens=sum(len(one.best) for one in scored),
        scorer_logp=sum(one.logp for one in scored), cosine=sum(cosine) / len(cosine) if cosine else None)


def _mean(scores: Sequence[AnswerScores], name: str) -> float | None:
    """Return the mean over turns, weighted by their numbers of tokens; None without a token."""
    values = [(getattr(one, name), len(one.best)) for one in scores if one.best]
    return sum(value * count for value, count in values) / sum(count for _, count in values) if values else None


def _likeness(scores: Sequence[TextScore], features: Sequence[np.ndarray]) -> Iterator[MauveScores]:
    """Yield MAUVE of each strategy's first sample per prompt against the references of its task."""
    groups: dict[tuple[str, str], list[np.ndarray]] = {}
    for score, feature in zip(scores, features, strict=True):
        if not (score.sample or score.repeat):
            groups.setdefault((score.task, score.strategy), []).append(feature)
    known: dict[tuple[str, bytes], list[float]] = {}  # lossless strategies give the same texts
    for (task, strategy), answers in groups.items():
        references = groups.get((task, ""), [])
        if strategy and references:
            p, q = np.stack(references), np.stack(answers)
            if (key := (task, q.tobytes())) not in known:
                finite = np.isfinite(p).all() and np.isfinite(q).all()  # half precision may overflow
                known[key] = [mauve(p, q, seed) for seed in SEEDS] if finite else []
            yield MauveScores(task=task, strategy=strategy, texts=len(answers), references=len(references),
                              scores=known[key])
