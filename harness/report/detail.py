"""The tables below the main one: acceptance, speed, limits and break-even of one or several runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from harness.measure.acceptance import acceptance_table
from harness.measure.judged import judge_notes
from harness.measure.limits import break_even, cheaper_than_one, limits_table
from harness.measure.parts import part_table
from harness.measure.raw import read
from harness.measure.speed import speed_table
from harness.measure.summary import concat_runs, run_labels, summarise
from harness.measure.tau_bins import CONTEXTS, ENTROPIES, names, tau_bins
from harness.report import judge, tables, texts
from harness.report.tables import QUALITY, SPEEDUP, TAU, Column, row_labels, with_short_tasks
from harness.report.texts import Kind, Section
from harness.report.verdict import verdicts
from harness.store.folder import Store

BREAK_EVEN = "break-even"
MANY_LOOPS = 0.1  # share of answers that end in a loop, from which a note says so
SHOWN = 4  # positions of a draft with a column; the CSV has all


def _spread(key: str, title: str, help: str) -> list[Column]:
    """Return the columns of a latency: mean, median and 99th percentile."""
    ends = {"mean": ("mean", "Mean"), "p50": ("p50", "Median"), "p99": ("p99", "99th percentile")}
    return [Column(f"{key}_{end}", f"{title} {short}", f"{word} of {help}, in milliseconds.", "milliseconds")
            for end, (short, word) in ends.items()]


def _bins(what: str, ends: Sequence[float], unit: str, of: str) -> list[Column]:
    """Return the columns of tokens per step in bins with these upper ends, and in the open one after them."""
    heads = [*(f"≤{end:,g} {unit}" for end in ends), f">{ends[-1]:,g} {unit}"]
    said = [*(f"{of} of up to {end:,g} {unit}, and more than in the column before." for end in ends),
            f"{of} of more than that."]
    return [Column(f"tau_{name}", head, help) for name, head, help in zip(names(what, ends), heads, said, strict=True)]


ACCEPTANCE = Kind(
    "acceptance", "Acceptance", "How many drafted tokens were accepted. The first step of an answer, the prefill, "
    "drafts nothing and is left out unless the title includes it. All figures depend on K, the number of drafted "
    "tokens.",
    acceptance_table,
    ("tau_pooled", "loops", "tau_question_mean", "tau_drafts", "draft_accept_rate", "drafted_mean",
     "accept_pos_uncond_1"), (
        Column("tau_pooled", "τ", "Tokens per step, over all steps: Spec-Bench's mean accepted tokens."),
        Column("loops", "loops", "Answers whose tokens end in a loop. A loop drafts itself, so it raises τ.", "share"),
        Column("tau_unlooped", "τ, no loops", "The same over the answers that do not end in a loop."),
        Column("tau_turn_mean", "τ by turn", "Mean over turns of the tokens per step."),
        Column("tau_question_mean", "τ by question", "Mean over questions of the tokens per step."),
        Column("tau_turn_mean_first", "τ by turn, first", "Mean over turns, the first step included: "
               "specdec_bench's acceptance length."),
        Column("tau_question_mean_first", "τ by question, first", "Mean over questions, the first step included."),
        Column("tau_verify", "τ per verify", "All tokens, including the first one, per step after the first: SGLang's "
               "accept length."),
        Column("tau_drafts", "1 + acc/drafts", "1 + accepted tokens / steps with a draft: mean acceptance length of "
               "vLLM and llama.cpp."),
        Column("draft_accept_rate", "accepted", "Share of drafted tokens that were accepted; in a tree, at most one "
               "per level can be.", "share"),
        Column("drafted_mean", "K", "Mean number of drafted tokens in steps with a draft: the size of a tree."),
        Column("drafted_max", "K max", "Maximum of drafted tokens in a step.", "count"),
        Column("accepted_max", "accepted max", "Maximum of accepted tokens in a step.", "count"),
        *(Column(f"accept_pos_uncond_{i}", f"pos {i}", f"Share of steps with a draft in which at least {i} tokens "
                 "were accepted (unconditional).", "share") for i in range(1, SHOWN + 1)),
        *(Column(f"accept_pos_cond_{i}", f"pos {i} | {i - 1}", f"The same among the steps that drafted {i} and "
                 f"accepted {i - 1} (conditional).", "share") for i in range(2, SHOWN + 1)),
    ))
BINS = Kind(
    "tau", "Tokens per step by context and entropy", "Tokens per step after the first, by the length of the context "
    "(prompt and answer so far), and by the mean entropy of the model's distributions in the answer, which only a run "
    "with text metrics has.", tau_bins,
    ("tau_context_256", "tau_context_1024", "tau_context_4096", "tau_entropy_0.25", "tau_entropy_1",
     "tau_entropy_more"), (*_bins("context", CONTEXTS, "tok", "Steps with a context"),
                           *_bins("entropy", ENTROPIES, "nats", "Answers with a mean entropy")))
SPEED = Kind(
    "speed", "Speed in detail", "A turn is a request; decode figures leave out its first step, the prefill. TTFT, TPOT "
    "and ITL are in milliseconds.", speed_table,
    ("ttft_p50", "tpot_p50", "itl_token_p99", "speedup_matched", "seconds_per_correct", "peak_bytes"), (
        *_spread("ttft", "TTFT", "the time to the first token of a turn"),
        *_spread("tpot", "TPOT", "a turn's time from its first to its last token over the tokens after the first"),
        *_spread("itl_token", "ITL/tok", "the time between steps, divided equally among the tokens of the later step"),
        *_spread("itl_burst", "ITL/burst", "the time between two steps with tokens"),
        Column("burst_mean", "burst", "Mean number of tokens of a step with tokens, after the first."),
        Column("burst_p99", "burst p99", "99th percentile of this number.", "count"),
        Column("tokens_per_second", "tok/s", "All tokens over all seconds, prefill included."),
        Column("tokens_per_second_mean", "tok/s mean", "Mean over answers of the tokens per second."),
        Column("decode_tokens_per_second", "decode tok/s", "All tokens over all seconds after the first steps."),
        Column("speedup_geometric", "× geometric", "Speed-up: geometric mean over answers, as in the main table."),
        Column("speedup_totals", "× totals", "Speed-up: ratio of the tokens per second of all answers together."),
        Column("speedup_arithmetic", "× arithmetic", "Speed-up: arithmetic mean over answers of the ratio."),
        Column("speedup_macro", "× macro", "Speed-up: ratio of the mean tokens per second of an answer, as in "
               "Spec-Bench."),
        Column("decode_speedup_totals", "decode × totals", "Ratio of decode tokens per second."),
        Column("decode_speedup_geometric", "decode × geometric", "Geometric mean over answers of the ratio of decode "
               "tokens per second."),
        Column("speedup_matched", "× matched", "Speed-up over the first tokens of both answers, up to the length of "
               "the shorter one, so that length has no effect. Geometric mean over answers."),
        Column("matched_tokens", "matched", "Share of tokens in this comparison.", "share"),
        Column("same_length", "same length", "Answers of the same length as the baseline's.", "share"),
        *(Column(f"stop_{reason}", reason, help, "share") for reason, help in {
            "eos": "Turns that ended with EOS.", "stop": "Turns that ended with a stop string.",
            "length": "Turns that reached the token limit.", "context": "Turns that reached the context limit.",
            "ended": "Turns that the strategy ended.", "unknown": "Turns with an unknown end."}.items()),
        Column("correct", "right", "Number of right answers, for scores of 0 or 1.", "count"),
        Column("seconds_per_correct", "s/right", "Seconds of all answers per right answer.", digits=3),
        Column("forwards_per_correct", "fwd/right", "Forward passes of all answers per right answer."),
        Column("tokens_per_correct", "tok/right", "Tokens of all answers per right answer."),
        Column("peak_bytes", "peak MB", "Peak memory while a sample was decoded, in 10⁶ bytes: torch's on a GPU, "
               "otherwise that of the whole process since its start.", "megabytes"),
    ))
LIMITS = Kind(
    "limits", "Limits", "The highest speed-ups that the machine allows, after the first step of each answer: the "
    "ideal speed-up is τ / (c + v), with the cost v of a step's forward passes and the cost c of its drafts, in "
    "forward passes over one token. The difference from it is lost in the implementation.", limits_table,
    ("tau", "v", "draft_cost", "ideal", "measured", "loss"), (
        Column("tau", "τ", "Tokens per step."),
        Column("v", "v", "Cost of the forward passes of a step, in forward passes over one token."),
        Column("draft_cost", "c", "Cost of the forward passes of the draft model or head in a step, in forward passes "
               "of the model over one token."),
        Column("ideal", "ideal", "τ / (c + v): the speed-up if only forward passes took time."),
        Column("measured", "measured", "Speed-up, all tokens over all seconds after the first steps; prefill included "
               "with a batch size above 1."),
        Column("loss", "loss", "Relative difference from the ideal speed-up: work of the strategy other than "
               "forward passes, beyond the baseline's.", "share"),
        Column("explained", "forwards", "Share of the measured time that these forward passes take when run alone.",
               "share"),
        Column("perfect", "all accepted", "The ideal speed-up if every draft were accepted to its full depth."),
        Column("oracle", "oracle", "The ideal speed-up of drafts that cost nothing and are always accepted, at the "
               "best number of tokens per forward pass."),
        Column("oracle_tokens", "oracle K + 1", "That number of tokens.", "count"),
        Column("bound", "tok/s bound", "Tokens per second if weights and KV cache were read at the measured memory "
               "bandwidth."),
        Column("of_bound", "of bound", "Measured share of that bound.", "share"),
    ))
PARTS = Kind(
    "parts", "Sub-tasks", "Each sub-task separately, then all together.", part_table,
    ("quality", "tokens_per_second", "speedup", "tau_pooled", "accept_rate"), (
        Column("samples", "samples", "Number of samples.", "count"), QUALITY, tables.SPEED, SPEEDUP, TAU,
        Column("accept_rate", "accepted", "Drafted tokens that the model accepted.", "share"),
        Column("tokens_mean", "tokens", "Mean number of tokens of an answer.", "count"),
    ))
ON_REQUEST = (ACCEPTANCE, BINS, SPEED)  # tables that are too long for a terminal, unless --details is given


@dataclass(frozen=True)
class Contents:
    """The contents of a report: the summary of each run, the joint summary, and the tables below it.

    `verdict` has the sentences of all runs.
    """

    summaries: list[pd.DataFrame]
    summary: pd.DataFrame
    sections: list[Section]
    verdict: list[str]


def collect(stores: Sequence[Store], lengths: Sequence[int] | None = None) -> Contents:
    """Compute all tables of a report, reading the records of each run once: all, or the first of them by `lengths`."""
    summaries, sections, several = _tables(stores, (PARTS, *ON_REQUEST, LIMITS), lengths)
    for kind, mode in judge.KINDS:
        notes = dict.fromkeys(note for store in stores for note in judge_notes(store, mode))
        sections += section_of(kind, stores, [kind.make(store) for store in stores], list(notes))
    return Contents(summaries, concat_runs(stores, summaries), [*sections, *texts.sections(stores, several)],
                    verdicts(stores, summaries))


def limits(stores: Sequence[Store]) -> list[Section]:
    """Return the tables about the machine: measured limits, and break-even batch sizes."""
    return _tables(stores, (LIMITS,))[1]


def _tables(stores: Sequence[Store], kinds: Sequence[Kind], lengths: Sequence[int] | None = None
            ) -> tuple[list[pd.DataFrame], list[Section], list[bool]]:
    """Return the summary of each run, the non-empty tables of `kinds` and of break-even, and which runs draw samples.
    """
    summaries, frames, several = list[pd.DataFrame](), list[list[pd.DataFrame]](), list[bool]()
    first: Sequence[int | None] = lengths or [None] * len(stores)
    for store, length in zip(stores, first, strict=True):
        raw = read(store, length)
        summaries.append(summarise(store, raw))
        frames.append([kind.make(store, raw) for kind in kinds])
        several.append(bool((raw.samples["sample"] > 0).any()))
    sections = [section for index, kind in enumerate(kinds)
                for section in section_of(kind, stores, [tables[index] for tables in frames],
                                          _inflated(stores) if kind is LIMITS else ())]
    sections = [replace(one, notes=(*one.notes, *_loops(one.rows))) if one.kind is ACCEPTANCE else one
                for one in sections]
    return summaries, [*sections, *_break_even(stores, summaries)], several


def _loops(rows: pd.DataFrame) -> list[str]:
    """Return a note for each cell in which many answers end in a loop, with the tokens per step of the others."""
    many = with_short_tasks(rows[rows["loops"] >= MANY_LOOPS])
    return [f"{row['label']} on {row['task']}: {100 * row['loops']:.0f} % of the answers end in a loop, which drafts "
            f"itself; τ of the others is " + (f"{row['tau_unlooped']:.2f}" if row["tau_unlooped"] > 0 else "unknown")
            for _, row in many.iterrows()]


def _inflated(stores: Sequence[Store]) -> list[str]:
    """Return a note for each run on whose machine a forward over several tokens is faster than over one."""
    notes = []
    for label, store in zip(run_labels(stores), stores, strict=True):
        if (limits := store.limits()) and (found := cheaper_than_one(limits)):
            run, (tokens, v) = f"{label}: " if len(stores) > 1 else "", found
            notes.append(f"{run}speed-ups of methods that verify several tokens are inflated by up to {1 / v:.2f} on "
                         f"this machine, because a forward over {tokens} tokens takes {v:.2f} times as long as one "
                         "over a single token")
    return notes


def _break_even(stores: Sequence[Store], summaries: Sequence[pd.DataFrame]) -> list[Section]:
    """Return the table of speed-up by batch size, with a note for each strategy whose speed-up crosses 1."""
    rows = break_even(stores, summaries)
    if rows.empty:
        return []
    sizes = sorted(int(name) for column in rows if (name := str(column).removeprefix("speedup_at_")).isdigit())
    columns = [Column(f"speedup_at_{n}", f"×{n}", f"Speed-up at batch size {n}.") for n in sizes]
    columns.append(Column("crossing", "crossing", "Batch size at which the speed-up is 1, interpolated."))
    kind = Kind(BREAK_EVEN, "Break-even", "Speed-up over the baseline at the same batch size, for each batch size.",
                break_even, tuple(column.key for column in columns[-7:]), tuple(columns))
    rows = rows.assign(label=row_labels(rows))
    crossed = rows.dropna(subset=["crossing"])
    notes = [f"{row['label']} on {row['task']} is {'slower' if row['falls'] else 'faster'} than the baseline "
             f"above batch size {row['crossing']:.1f}" for _, row in crossed.iterrows()]
    return [Section(kind, rows, tuple(notes or ["no speed-up crosses 1 between these batch sizes"]))]


def section_of(kind: Kind, stores: Sequence[Store], frames: Sequence[pd.DataFrame],
               notes: Sequence[str] = ()) -> list[Section]:
    """Return a table of all runs, or nothing if no run has a row."""
    rows = concat_runs(stores, frames)
    return [Section(kind, rows.assign(label=row_labels(rows)), tuple(notes))] if len(rows) else []
