"""Tables of the texts of a run: text metrics, variety of several samples, and correlation of likelihood and score.

Words are separated by white space. Figures of a set of texts depend on how many there are, so those of a strategy are
over its first answer to each prompt.
"""

import hashlib
import math
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from harness.measure import judged
from harness.scoring import variety
from harness.store.folder import Store
from harness.store.schema import Key, TextMetrics, TextScore, shared_key

NAN = float("nan")
REFERENCE, ALL = "reference", "all strategies"  # rows beside those of the strategies
COPY = 8  # words of a passage that counts as copied


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of a successful sample that the tables of texts need, in little memory.

    `prompt` is that of the first turn, `texts` and `stops` have one entry a turn, `tokens` the token ids of all turns,
    and `score` is the headline score of the task, None without one.
    """

    key: Key
    prompt: str
    texts: tuple[str, ...]
    stops: tuple[str, ...]
    tokens: "array[int]"
    score: float | None


Answers = Mapping[Key, Answer]


def answers_of(store: Store) -> Answers:
    """Return the successful samples of a run by key."""
    headline, names = {task.spec: task.headline for task in judged.tasks(store)}, dict[str, str]()
    answers = dict[Key, Answer]()
    for record in judged.records(store):
        if record.status == "ok":
            turns, key = record.turns, shared_key(record.key, names)
            prompt = turns[0].prompt if turns else ""
            answers[key] = Answer(key, names.setdefault(prompt, prompt), tuple(turn.text for turn in turns),
                                  tuple(sys.intern(turn.stop) for turn in turns),
                                  array("i", chain.from_iterable(turn.tokens for turn in turns)),
                                  record.scores.get(headline[record.task]))
    return answers


def text_table(store: Store, answers: Answers) -> pd.DataFrame:
    """Return one row per strategy of each task with text metrics, after one row of its references; NaN is unknown.

    `scorer_figures` explains the columns of the scorer. `mauve` is the mean over the starts of its k-means,
    `mauve_spread` their standard deviation.
    """
    texts = store.text_metrics()
    if texts is None:
        return pd.DataFrame()
    rows, prompts = [], {key[:2]: answer.prompt for key, answer in answers.items()}
    known = dict[bytes, dict[str, float]]()
    for task in texts.tasks:
        of_task = [one for one in texts.scores if one.task == task and not (one.sample or one.repeat)]
        for strategy in ("", *(entry.spec for entry in store.manifest.strategies)):
            if scores := [one for one in of_task if one.strategy == strategy]:
                of_cell = [answers.get(score.key) for score in scores]
                rows.append({"task": task, "strategy": strategy or REFERENCE, "texts": len(scores),
                             **_variety(list(map(_whole, scores, of_cell)),
                                        [prompts.get((task, one.example), "") for one in scores], known),
                             **_models(scores), **_mauve(texts, task, strategy), **_ends(of_cell)})
    return pd.DataFrame(rows)


def sample_table(store: Store, answers: Answers) -> pd.DataFrame:
    """Return one row per cell with several samples per prompt: their variety, as the mean over prompts.

    `unique` counts distinct answers as extracted by the task, `unique_texts` distinct texts. `oracle_k` is the best
    score among all `samples`, `oracle_1` the expected score of one. Repeats are not counted.
    """
    texts, rows = store.text_metrics(), []
    known = {one.key: one.answer for one in texts.scores} if texts else {}
    cells = dict[tuple[str, str], dict[str, list[Answer]]]()
    for answer in answers.values():
        task, example, strategy, _, repeat = answer.key
        if not repeat:
            cells.setdefault((task, strategy), {}).setdefault(example, []).append(answer)
    for task in (entry.spec for entry in store.manifest.tasks):
        for strategy in (entry.spec for entry in store.manifest.strategies):
            prompts = list(cells.get((task, strategy), {}).values())
            count = max(map(len, prompts), default=0)
            if count > 1:
                rows.append({"task": task, "strategy": strategy, "samples": count,
                             **_several([one for one in prompts if len(one) == count], known)})
    return pd.DataFrame(rows)


def utility_table(store: Store, answers: Answers) -> pd.DataFrame:
    """Return one row per strategy of each scored task with text metrics, and one row of all strategies together.

    `tau` and `rho` are Kendall's (tau-b) and Spearman's rank correlation of mean log p per token and score over answers
    (all strategies: over distinct answers). `tau_whole` uses log p of the whole answer. `tau_within` is the mean over
    `prompts` of tau among the distinct answers to one prompt (arXiv 2210.07228). A correlation with a constant is NaN.
    """
    texts = store.text_metrics()
    if texts is None:
        return pd.DataFrame()
    rows = []
    for task in (one for one in judged.tasks(store) if one.spec in texts.tasks):
        of_task = [(one, answer.score) for one in texts.scores
                   if one.task == task.spec and not one.repeat and one.tokens and (answer := answers.get(one.key))
                   and answer.score is not None]
        wanted = [one.logp / one.tokens for one in texts.scores
                  if (one.task, one.strategy) == (task.spec, "") and one.tokens]
        for strategy in (ALL, *(entry.spec for entry in store.manifest.strategies)):
            pairs = [(one, score) for one, score in of_task if strategy in (ALL, one.strategy)]
            if strategy == ALL:  # the same answer of two strategies is one answer
                pairs = list({(one.example, one.logp, one.tokens, score): (one, score)
                              for one, score in pairs}.values())
            if pairs:
                rows.append({"task": task.spec, "strategy": strategy, "metric": task.headline,
                             **_aligned(pairs),
                             "reference_logp": _mean(wanted)})
    return pd.DataFrame(rows)


def rank_correlation(one: Sequence[float], other: Sequence[float], kind: str = "kendall") -> float:
    """Return Kendall's tau-b or Spearman's rho; NaN for fewer than two pairs, or if one side is constant."""
    from scipy.stats import kendalltau, spearmanr

    if len(set(one)) < 2 or len(set(other)) < 2:
        return NAN
    return float(kendalltau(one, other).statistic if kind == "kendall" else spearmanr(one, other).statistic)


def scorer_figures(texts: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Return coherence and perplexity of texts from log p (nats) and number of tokens of each; empty without a token.

    `coherence` is the mean over texts of the mean log p of a token, `perplexity` is exp(-sum log p / tokens) over all
    texts, `perplexity_macro` the mean of that of each text.
    """
    full = [(logp, tokens) for logp, tokens in texts if tokens]
    if not full:
        return {}
    means = [logp / tokens for logp, tokens in full]
    return {"coherence": _mean(means),
            "perplexity": _exp(-math.fsum(logp for logp, _ in full) / sum(tokens for _, tokens in full)),
            "perplexity_macro": _mean([_exp(-mean) for mean in means])}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else NAN


def _whole(score: TextScore, answer: Answer | None) -> str:
    return " ".join(answer.texts) if answer else score.text


def _variety(whole: Sequence[str], all_prompts: Sequence[str], known: dict[bytes, dict[str, float]]
             ) -> dict[str, float]:
    """Return figures of a set of texts, cached by digest in `known`, because lossless strategies give equal texts."""
    digest = hashlib.sha256(repr((whole, all_prompts)).encode("utf-8", "surrogatepass")).digest()
    if digest not in known:
        known[digest] = _variety_of([tuple(text.split()) for text in whole],
                                    [tuple(prompt.split()) for prompt in all_prompts])
    return known[digest]


def _variety_of(texts: Sequence[tuple[str, ...]], prompts: Sequence[tuple[str, ...]]) -> dict[str, float]:
    figures = variety.figures(texts)
    pairs = [(text, prompt) for text, prompt in zip(texts, prompts, strict=True) if prompt]
    figures["copied"] = _mean([variety.copied(text, prompt, COPY) for text, prompt in pairs])
    figures["longest_copy"] = _mean([variety.longest_copy(text, prompt) for text, prompt in pairs])
    return {"too_short": variety.too_short(texts, 4), "words": _mean([len(text) for text in texts]),
            **{name: NAN if value is None else value for name, value in figures.items()}}


def _models(scores: Sequence[TextScore]) -> dict[str, float]:
    own, own_logp = sum(one.tokens for one in scores), math.fsum(one.logp for one in scores)
    nothing = dict.fromkeys(("coherence", "perplexity", "perplexity_macro"), NAN)
    return {
        **nothing, **scorer_figures([(one.scorer_logp, one.scorer_tokens) for one in scores]),
        "cosine": _mean([one.cosine for one in scores]),
        "surprise": -own_logp / own / math.log(2) if own else NAN,
        **{name: _mean([getattr(one, name) for one in scores]) for name in ("greedy", "entropy", "uneven", "rep")},
        "tokens": _mean([one.tokens for one in scores]),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _mauve(texts: TextMetrics, task: str, strategy: str) -> dict[str, float]:
    scores = next((one.scores for one in texts.likeness if (one.task, one.strategy) == (task, strategy)), [])
    return {"mauve": _mean(scores), "mauve_spread": float(np.std(scores, ddof=1)) if len(scores) > 1 else NAN}


def _ends(answers: Sequence[Answer | None]) -> dict[str, float]:
    turns = [one.stops for one in answers if one]
    return {"eos": _mean([stops[-1] == "eos" for stops in turns]),
            "truncated": _mean([any(stop in ("length", "context") for stop in stops) for stops in turns])}


def _several(prompts: Sequence[Sequence[Answer]], known: dict[Key, str | None]) -> dict[str, float]:
    def mean(figure: Callable[[Sequence[Any]], float | None], of: Callable[[Answer], Any]) -> float:
        return _mean([figure([of(answer) for answer in answers]) for answers in prompts])

    scores = [[answer.score for answer in answers] for answers in prompts]
    scored = [[score for score in one if score is not None] for one in scores if None not in one]
    return {
        "prompts": len(prompts),
        "unique": mean(variety.unique_share, lambda one: known[one.key]) if _all_known(prompts, known) else NAN,
        "unique_texts": mean(variety.unique_share, _text),
        "distinct_2": mean(lambda texts: variety.distinct_n(texts, 2), lambda one: _text(one).split()),
        "div_2": mean(lambda texts: variety.div_n(texts, 2), lambda one: _text(one).split()),
        "self_bleu_4": mean(variety.self_bleu, lambda one: _text(one).split()),
        "hamming": mean(variety.hamming, lambda one: one.tokens),
        "oracle_1": _mean([variety.oracle_at_k(one, 1) for one in scored]),
        "oracle_k": _mean([variety.oracle_at_k(one, len(one)) for one in scored]),
    }


def _all_known(prompts: Sequence[Sequence[Answer]], known: dict[Key, str | None]) -> bool:
    return all(answer.key in known for answers in prompts for answer in answers)


def _text(answer: Answer) -> str:
    return "\n".join(answer.texts)


def _aligned(pairs: Sequence[tuple[TextScore, float]]) -> dict[str, float]:
    means, scores = [one.logp / one.tokens for one, _ in pairs], [score for _, score in pairs]
    within = [tau for one in _by_prompt(pairs) if not math.isnan(tau := rank_correlation(*one))]
    return {"answers": len(pairs), "logp": _mean([one.logp for one, _ in pairs]), "logp_token": _mean(means),
            "quality": _mean(scores), "tau": rank_correlation(means, scores),
            "rho": rank_correlation(means, scores, "spearman"),
            "tau_whole": rank_correlation([one.logp for one, _ in pairs], scores),
            "tau_within": _mean(within), "prompts": len(within)}


def _by_prompt(pairs: Sequence[tuple[TextScore, float]]) -> Iterator[tuple[list[float], list[float]]]:
    """Yield mean log p per token and score of the distinct answers to each prompt."""
    by_prompt: dict[str, dict[tuple[float, int, float], None]] = {}
    for one, score in pairs:
        by_prompt.setdefault(one.example, {})[one.logp, one.tokens, score] = None
    for answers in by_prompt.values():
        yield [logp / tokens for logp, tokens, _ in answers], [score for *_, score in answers]
