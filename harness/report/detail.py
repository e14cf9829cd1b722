"""The tables below the main one: acceptance, speed, limits and break-even of one or several runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.measure.acceptance import acceptance_table
from harness.measure.judged import judge_notes
from harness.measure.limits import break_even, limits_table
from harness.measure.parts import part_table
from harness.measure.raw import read
from harness.measure.speed import speed_table
from harness.measure.summary import concat_runs, summarise
from harness.report import judge, tables, texts
from harness.report.tables import QUALITY, SPEEDUP, TAU, Column, names
from harness.report.texts import Kind, Section
from harness.store.folder import Store

SHOWN = 4  # places of a draft that are shown; the CSV has all


def _spread(key: str, title: str, help: str) -> list[Column]:
    """Return the columns of a latency: mean, median and 99th percentile."""
    ends = {"mean": ("mean", "Mean"), "p50": ("p50", "Median"), "p99": ("p99", "99th percentile")}
    return [Column(f"{key}_{end}", f"{title} {short}", f"{word} of {help}, in milliseconds.", "milliseconds")
            for end, (short, word) in ends.items()]


ACCEPTANCE = Kind(
    "acceptance", "Acceptance", "What became of drafts. The first step of an answer reads the prompt, drafts nothing "
    "and is left out unless the title says otherwise. All of it depends on how much is drafted (K).", acceptance_table,
    ("tau_pooled", "tau_question_mean", "tau_drafts", "draft_accept_rate", "drafted_mean", "accept_pos_uncond_1"), (
        Column("tau_pooled", "τ", "Tokens kept per step, over all steps: Spec-Bench's mean accepted tokens."),
        Column("tau_turn_mean", "τ by turn", "The mean over turns of each turn's tokens per step."),
        Column("tau_question_mean", "τ by question", "The mean over questions of each one's tokens per step."),
        Column("tau_turn_mean_first", "τ by turn, first", "The same as by turn with the first step counted in: "
               "specdec_bench's acceptance length."),
        Column("tau_question_mean_first", "τ by question, first", "By question with the first step counted in."),
        Column("tau_verify", "τ per verify", "All tokens, the first among them, per step after the first: SGLang's "
               "accept length."),
        Column("tau_drafts", "1 + acc/drafts", "1 + accepted / steps that drafted: the mean acceptance length of vLLM "
               "and llama.cpp."),
        Column("draft_accept_rate", "accepted", "Drafted tokens that were accepted; in a tree most cannot be.",
               "share"),
        Column("drafted_mean", "K", "Mean number of tokens drafted in a step that drafted: the size of a tree."),
        Column("drafted_max", "K max", "Most tokens drafted in a step.", "count"),
        Column("accepted_max", "accepted max", "Most tokens accepted in a step.", "count"),
        *(Column(f"accept_pos_uncond_{i}", f"place {i}", f"Steps that drafted of which at least {i} tokens were "
                 "accepted (unconditional).", "share") for i in range(1, SHOWN + 1)),
        *(Column(f"accept_pos_cond_{i}", f"place {i} | {i - 1}", f"The same among the steps that drafted {i} and "
                 f"accepted {i - 1} (conditional).", "share") for i in range(2, SHOWN + 1)),
    ))
SPEED = Kind(
    "speed", "Speed in detail", "A turn is a request; its first step, which reads the prompt, is left out of what is "
    "called decode. TTFT, TPOT and ITL are in milliseconds.", speed_table,
    ("ttft_p50", "tpot_p50", "itl_token_p99", "speedup_matched", "seconds_per_correct", "peak_bytes"), (
        *_spread("ttft", "TTFT", "the time to the first token of a turn"),
        *_spread("tpot", "TPOT", "a turn's time from its first to its last token over the tokens after the first"),
        *_spread("itl_token", "ITL/tok", "the time between steps, shared equally among the tokens of the later one"),
        *_spread("itl_burst", "ITL/burst", "the time between two steps that gave tokens"),
        Column("burst_mean", "burst", "Tokens of a step that gave some, after the first: mean."),
        Column("burst_p99", "burst p99", "The same: 99th percentile.", "count"),
        Column("tokens_per_second", "tok/s", "All tokens over all seconds, the prompt's reading included."),
        Column("tokens_per_second_mean", "tok/s mean", "The mean over answers of each one's tokens per second."),
        Column("decode_tokens_per_second", "decode tok/s", "All tokens over all seconds after the first steps."),
        Column("speedup_geometric", "× geometric", "Speed-up: geometric mean over answers, as in the main table."),
        Column("speedup_totals", "× totals", "Speed-up: ratio of the tokens per second of all answers together."),
        Column("speedup_arithmetic", "× arithmetic", "Speed-up: plain mean over answers of the ratio."),
        Column("speedup_macro", "× macro", "Speed-up: ratio of the mean tokens per second of an answer, as Spec-Bench "
               "has it."),
        Column("decode_speedup_totals", "decode × totals", "Ratio of decode tokens per second."),
        Column("decode_speedup_geometric", "decode × geometric", "Geometric mean over answers of the ratio of decode "
               "tokens per second."),
        Column("speedup_matched", "× matched", "Speed-up over the first tokens of both answers only, as many as the "
               "shorter one has: length plays no part. Geometric mean over answers."),
        Column("matched_tokens", "matched", "Tokens that this is over.", "share"),
        Column("same_length", "same length", "Answers as long as the baseline's.", "share"),
        *(Column(f"stop_{reason}", reason, help, "share") for reason, help in {
            "eos": "Turns that the model ended itself.", "stop": "Turns that a stop string ended.",
            "length": "Turns that ran into the token limit.", "context": "Turns that ran into the context limit.",
            "ended": "Turns that the strategy ended.", "unknown": "Turns of which this is not known."}.items()),
        Column("correct", "right", "Right answers, where answers are right or wrong.", "count"),
        Column("seconds_per_correct", "s/right", "Seconds of all answers over the right ones.", digits=3),
        Column("forwards_per_correct", "fwd/right", "Forward passes of all answers over the right ones."),
        Column("tokens_per_correct", "tok/right", "Tokens of all answers over the right ones."),
        Column("peak_bytes", "peak MB", "Most memory held while a sample was decoded, in 10⁶ bytes: torch's on a GPU, "
               "else the whole process with all that it had taken before.", "megabytes"),
    ))
LIMITS = Kind(
    "limits", "Limits", "What the machine allows, after the first step of each answer: the ideal speed-up is "
    "τ / (c + v), where v is what a step's forwards cost and c what its drafts cost, in forwards over one token. What "
    "is missing to it is the implementation's.", limits_table,
    ("tau", "v", "draft_cost", "ideal", "measured", "loss"), (
        Column("tau", "τ", "Tokens kept per step."),
        Column("v", "v", "What the forwards of a step cost, in forwards over one token."),
        Column("draft_cost", "c", "What the draft model's forwards of a step cost, in forwards of the model over one "
               "token."),
        Column("ideal", "ideal", "τ / (c + v): the speed-up if nothing but forwards took time."),
        Column("measured", "measured", "Speed-up, all tokens over all seconds after the first steps; end to end when "
               "several texts are decoded at a time."),
        Column("loss", "loss", "What is missing to the ideal speed-up: the strategy's own work, beyond the "
               "baseline's.", "share"),
        Column("explained", "forwards", "Share of the measured time that these forwards take when run alone.", "share"),
        Column("perfect", "all accepted", "The ideal speed-up had every draft been accepted, as deep as any was."),
        Column("oracle", "oracle", "The ideal speed-up of drafts that cost nothing and are never wrong, at the best "
               "number of tokens a forward."),
        Column("oracle_tokens", "oracle K + 1", "That number of tokens.", "count"),
        Column("bound", "tok/s bound", "Tokens per second if weights, keys and values were read as fast as memory is "
               "copied."),
        Column("of_bound", "of bound", "Share of that bound that was reached.", "share"),
    ))
PARTS = Kind(
    "parts", "Sub-tasks", "Each sub-task by itself, then all together.", part_table,
    ("quality", "tokens_per_second", "speedup", "tau_pooled", "accept_rate"), (
        Column("samples", "samples", "Samples that the figures are of.", "count"), QUALITY, tables.SPEED, SPEEDUP, TAU,
        Column("accept_rate", "accepted", "Drafted tokens that the model accepted.", "share"),
        Column("tokens_mean", "tokens", "Mean number of tokens of an answer.", "count"),
    ))
ON_REQUEST = (ACCEPTANCE, SPEED)  # long tables that a terminal shows only on request


@dataclass(frozen=True)
class Contents:
    """The contents of a report: the summary of each run, the joint summary, and the tables below it.

    `keys` has the task, example and sample number of each record of a run, in their order.
    """

    summaries: list[pd.DataFrame]
    summary: pd.DataFrame
    sections: list[Section]
    keys: list[pd.DataFrame]


def collect(stores: Sequence[Store]) -> Contents:
    """Read the records of each run once, and compute all tables."""
    summaries, sections, keys = _tables(stores, (PARTS, *ON_REQUEST, LIMITS))
    several = [bool((frame["sample"] > 0).any()) for frame in keys]
    for kind, mode in judge.KINDS:
        notes = dict.fromkeys(note for store in stores for note in judge_notes(store, mode))
        sections += section_of(kind, stores, [kind.make(store) for store in stores], list(notes))
    return Contents(summaries, concat_runs(stores, summaries), [*sections, *texts.sections(stores, several)], keys)


def limits(stores: Sequence[Store]) -> list[Section]:
    """Return the tables about the machine: measured limits, and break-even batch sizes."""
    return _tables(stores, (LIMITS,))[1]


def _tables(stores: Sequence[Store], kinds: Sequence[Kind]
            ) -> tuple[list[pd.DataFrame], list[Section], list[pd.DataFrame]]:
    """Return the summary of each run, the non-empty tables of `kinds` and of break-even, and the keys."""
    summaries, frames, keys = list[pd.DataFrame](), list[list[pd.DataFrame]](), list[pd.DataFrame]()
    for store in stores:
        raw = read(store)
        summaries.append(summarise(store, raw))
        frames.append([kind.make(store, raw) for kind in kinds])
        keys.append(raw.samples[["task", "example", "sample"]].copy())
    sections = [section for place, kind in enumerate(kinds)
                for section in section_of(kind, stores, [each[place] for each in frames])]
    return summaries, [*sections, *_break_even(stores, summaries)], keys


def _break_even(stores: Sequence[Store], summaries: Sequence[pd.DataFrame]) -> list[Section]:
    """Return the table of speed-up by batch size, with a sentence for every crossing of 1."""
    rows = break_even(stores, summaries)
    if rows.empty:
        return []
    at = sorted(int(str(name).removeprefix("speedup_at_")) for name in rows if str(name).startswith("speedup_at_"))
    columns = [Column(f"speedup_at_{n}", f"×{n}", f"Speed-up with {n} texts at a time.") for n in at]
    columns.append(Column("crossing", "crossing", "Texts at a time at which the speed-up is 1, interpolated."))
    kind = Kind("break-even", "Break-even", "Speed-up over the baseline at the same concurrency, by the number of "
                "texts decoded at a time.", break_even, tuple(column.key for column in columns[-7:]), tuple(columns))
    rows = rows.assign(label=names(rows))
    crossed = rows.dropna(subset=["crossing"])
    notes = [f"{row['label']} on {row['task']} {'stops paying' if row['falls'] else 'begins to pay'} at "
             f"{row['crossing']:.1f} texts at a time" for _, row in crossed.iterrows()]
    return [Section(kind, rows, tuple(notes or ["no strategy crosses 1 between these"]))]


def section_of(kind: Kind, stores: Sequence[Store], frames: Sequence[pd.DataFrame],
               notes: Sequence[str] = ()) -> list[Section]:
    """Return a table of all runs, or nothing if no run has a row."""
    rows = concat_runs(stores, frames)
    return [Section(kind, rows.assign(label=names(rows)), tuple(notes))] if len(rows) else []
