"""Mistakes planted one at a time in a copy of the project, each of which the quick tests named beside it must catch.

    python -m tests.mutations [WORD…]      only those whose file or mistake contains a word

Prints a line a mistake, killed or survived, and exits with 1 when one survived. A few seconds each.
"""

import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICKLY = ("-n", "0", "-m", "quick", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
LARGE = ("torch", "transformers.models.llama.modeling_llama", "scipy.stats", "pandas", "evaluate", "hypothesis")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "demo", "reports", "*.egg-info")


class Mutation(NamedTuple):
    """A mistake: `old` occurs once in `file` and is replaced by `new`; `tests` are what must then fail."""

    why: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation("a rejected draft is replaced by a draw from p, not from what is left of it", "harness/decoding/accept.py",
             "p = _normal(_subtract(p, q, token), p)", "p = p", "tests/law/test_accept.py"),
    Mutation("a rejected sibling stays in q although it was drawn without replacement", "harness/decoding/accept.py",
             "q = _normal(_without(q, token), ", "q = _normal(q, ", "tests/law/test_accept.py"),
    Mutation("the next token is read off the parent of the last accepted draft", "harness/decoding/accept.py",
             "return path, best[node + 1]", "return path, best[path[-2] + 1 if len(path) > 1 else 0]",
             "tests/law/test_accept.py"),
    Mutation("a block of drafts is judged by the coins of single tokens", "harness/decoding/accept.py",
             "masses[i] / (masses[i] + 1 - known[i])", "masses[i]", "tests/law/test_rules.py"),
    Mutation("k-seq forgets its factor when it accepts", "harness/decoding/accept.py",
             "ratio(chance, rho * drafted)", "ratio(chance, drafted)", "tests/law/test_rules.py"),
    Mutation("states of a grammar share one matcher, which runs ahead of them", "harness/decoding/grammar.py",
             "state = state.deep_copy()", "pass", "tests/strategies/test_grammar.py"),
    Mutation("an answer may end before its grammar is complete", "harness/decoding/grammar.py",
             "] = accepting", "] = True", "tests/strategies/test_grammar.py"),
    Mutation("typical acceptance loses its upper threshold", "harness/decoding/lossy.py",
             ".clamp_max(epsilon)", ".clamp_max(1.0)", "tests/law/test_lossy.py"),
    Mutation("an accepted path is moved one slot too far in the cache", "harness/engine/cache.py",
             "[move.start + i for", "[move.start + i + 1 for", "tests/harness/engine/test_session.py"),
    Mutation("a closed row is filled without the keys of the row that takes its place", "harness/engine/engine.py",
             "self.cache.copy(last.index, row.index, last.end)", "self.cache.copy(last.index, row.index, 0)",
             "tests/harness/engine/test_batching.py"),
    Mutation("a node of a tree sees its parent but not what is above it", "harness/engine/tree.py",
             "attended[node] |= attended[parent]", "attended[node, parent] = True",
             "tests/harness/engine/test_session.py"),
    Mutation("all nodes of a tree get the position of its first level", "harness/engine/session.py",
             "[last + depth for depth in depths(", "[last + 1 for depth in depths(",
             "tests/harness/engine/test_session.py"),
    Mutation("a short sequence in a batch reads the slots twice that are at both of its ends",
             "harness/engine/attention_hooks.py", ".masked_fill(twice, lowest)", "",
             "tests/strategies/test_windowed_self.py"),
    Mutation("the steps of a group of weights are those of its row", "harness/engine/rounded_weights.py",
             "torch.split(weight.float(), group, 1)", "torch.split(weight.float(), weight.shape[1], 1)",
             "tests/strategies/test_quantised_self.py"),
    Mutation("logits of a draft model are given to tokens of other texts", "harness/models/translation.py",
             "logits[:, self._shared[1]]", "logits[:, self._shared[1].sort().values]",
             "tests/harness/models/test_translation.py"),
    Mutation("special tokens count as their names", "harness/models/translation.py",
             "if number not in special}", "}", "tests/harness/models/test_translation.py"),
    Mutation("a penalty by tokens of the target bends a draft model of another vocabulary", "harness/engine/session.py",
             " and not self._draft.engine.translation", "", "tests/strategies/test_other_vocabularies.py"),
    Mutation("a drafted text begins with the whole token that the tokenizer would have merged it into",
             "harness/models/translation.py", "[token] if len(piece) <= left else split(piece[-left:], self._ids)",
             "[token]", "tests/strategies/test_other_vocabularies.py"),
    Mutation("a draft goes on behind EOS", "strategies/uag.py", " and ends not in written", "",
             "tests/strategies/test_other_vocabularies.py"),
    Mutation("after an accepted path the model's answer after its first node is used", "harness/engine/session.py",
             "output_of(path[-1])", "output_of(path[0])",
             "tests/harness/engine/test_session.py"),
    Mutation("sequences whose forwards have different hooks share one", "harness/engine/batching.py",
             "if (request.hook, request.draft) == kind]", "if request is request]",
             "tests/strategies/test_selfdraft.py -k read_together"),
    Mutation("a nucleus leaves out the token that completes its mass", "harness/engine/logit_warps.py",
             "(probs.cumsum(-1) - probs < mass)", "(probs.cumsum(-1) < mass)",
             "tests/strategies/test_sampling.py tests/strategies/test_sheet_sampling.py"),
    Mutation("a tie at the edge keeps more tokens than asked for", "harness/engine/logit_warps.py",
             "(kept.sum(-1) == numbers)", "(kept.sum(-1) >= numbers)", "tests/strategies/test_sampling.py"),
    Mutation("the steepest fall is searched only among the tokens that are sorted at first",
             "harness/engine/logit_warps.py", "number.where(falls.amax(-1) >= beyond, size)", "number",
             "tests/strategies/test_community_samplers.py"),
    Mutation("XTC tosses a coin for the draft and another for its target", "strategies/xtc.py",
             "stream.branch(COINS + len(sequences[row])).coin(", "stream.coin(", "tests/strategies/test_xtc.py"),
    Mutation("a code is followed after no other sample can have the same beginning",
             "strategies/arithmetic_sampling.py", "return self.stream.choose(weights)", "pass",
             "tests/strategies/test_arithmetic_sampling.py"),
    Mutation("eta's threshold misses its square root", "harness/engine/logit_warps.py",
             "math.log(least) / 2", "math.log(least)",
             "tests/strategies/test_sampling.py tests/strategies/test_sheet_sampling.py"),
    Mutation("all branches of a random stream are the same", "harness/engine/random_stream.py",
             'PhiloxStream("branch", self._key, number)', 'PhiloxStream("branch", self._key)',
             "tests/harness/engine/test_random_stream.py"),
    Mutation("streams of (1, 23) and (12, 3) are the same", "harness/engine/random_stream.py",
             'digest = hashlib.blake2b("\\x1f".join(map(str, parts)).encode(), digest_size=16)',
             'digest = hashlib.blake2b("".join(map(str, parts)).encode(), digest_size=16)',
             "tests/harness/engine/test_random_stream.py"),
    Mutation("an answer loses its EOS", "harness/models/stop_rule.py",
             'Cut(eos + 1, "eos")', 'Cut(eos, "eos")', "tests/harness/models/test_stop_rule.py"),
    Mutation("the length penalty counts the token after the end", "harness/decoding/search.py",
             "self.score / divisor(len(self.tokens))", "self.score / divisor(len(self.tokens) + 1)",
             "tests/law/test_chain_search.py"),
    Mutation("a beam that may finish counts among the best width + 1", "harness/decoding/search.py",
             "for child in candidates[:self.width]:", "for child in candidates[:self.width + 1]:",
             "tests/law/test_chain_search.py tests/parity/test_transformers.py"),
    Mutation("early stopping never looks at the longest length", "harness/decoding/search.py",
             "by = max(by, self.divisor(self.request.max_new_tokens))", "by = by + 0",
             "tests/law/test_chain_search.py tests/parity/test_transformers.py"),
    Mutation("the repetition penalty raises negative logits", "harness/decoding/penalty.py",
             "values * penalty, values / penalty)", "values / penalty, values / penalty)",
             "tests/strategies/test_penalties.py"),
    Mutation("Holm multiplies every p-value alike, as Bonferroni does", "harness/stats/multiple.py",
             "(len(made) - rank)", "len(made)", "tests/harness/stats/test_paired.py"),
    Mutation("standard errors of few clusters miss n / (n - 1)", "harness/stats/bootstrap.py",
             "size / (size - 1)", "size / size",
             "tests/harness/stats/test_bootstrap.py tests/harness/stats/test_paired.py"),
    Mutation("a resample draws one cluster too few", "harness/stats/bootstrap.py",
             "rng.integers(size, size=", "rng.integers(size - 1, size=", "tests/harness/stats/test_bootstrap.py"),
    Mutation("a randomisation test may give p = 0", "harness/stats/paired.py",
             "(1 + (np.abs(_flipped(some", "(0 + (np.abs(_flipped(some", "tests/harness/stats/test_paired.py"),
    Mutation("GSM8K's flexible filter takes the first number", "harness/scoring/metrics.py",
             "cls.normal(numbers[-1])", "cls.normal(numbers[0])", "tests/harness/scoring/test_metrics.py"),
    Mutation("sentence BLEU counts n-grams that a short sentence cannot have", "harness/scoring/corpus.py",
             "effective_order=sentence", "effective_order=False", "tests/harness/scoring/test_corpus.py"),
    Mutation("a slot with a wrong value is missing too", "harness/scoring/slots.py",
             "name in wanted and not found", "name in wanted and wanted[name] not in found",
             "tests/harness/scoring/test_slots.py"),
    Mutation("a phrase inside a longer one of another value counts", "harness/scoring/slots.py",
             "one[0] - one[1], one[2] != wanted", "one[1] - one[0], one[2] != wanted",
             "tests/harness/scoring/test_slots.py"),
    Mutation("a resampled corpus has every answer once", "harness/stats/bootstrap.py",
             "np.bincount(rng.choice(size, size), minlength=size)", "np.ones(size)",
             "tests/harness/stats/test_bootstrap.py"),
    Mutation("GSM8K's comparison keeps commas", "harness/scoring/metrics.py",
             'map(re.compile, (",", r"\\$"', 'map(re.compile, (r"\\$"', "tests/harness/scoring/test_metrics.py"),
    Mutation("a torn last line of the records is not cut off", "harness/store/jsonl.py",
             "if end < size:", "if end > size:",
             "tests/harness/run/test_runner.py"),
    Mutation("repeats of a sample count as done when the first one is", "harness/run/runner.py",
             "(cell.strategy.spec(), cell.sample, cell.repeat)", "(cell.strategy.spec(), cell.sample, 0)",
             "tests/harness/run/test_random_streams.py"),
    Mutation("two examples draw from the same random stream", "harness/run/runner.py",
             "cell.task.spec(), example.id, stream,", "cell.task.spec(), stream,",
             "tests/harness/run/test_random_streams.py"),
    Mutation("power sampling forgets the factor of the lengths", "strategies/power_sampling.py",
             " + math.log(len(old.tokens) / len(new.tokens))", "", "tests/strategies/test_power_sampling.py"),
    Mutation("a rank by confidence starts with the least sure text", "strategies/weighted_vote.py",
             "float(len(order) - place)", "float(place + 1)", "tests/strategies/test_voting.py"),
    Mutation("a text is stopped by fewer tokens than a group has", "strategies/deepconf.py",
             "len(group) == self.window and ", "", "tests/strategies/test_voting.py"),
    Mutation("the answer of CoT-decoding begins a token late", "strategies/cot_decoding.py",
             "key=length) - 1,", "key=length),", "tests/strategies/test_cot_decoding.py"),
    Mutation("rollouts are weighed by p^alpha, not p^(alpha - 1)", "strategies/power_rollouts.py",
             "(self.alpha - 1) * log_p", "self.alpha * log_p", "tests/strategies/test_power_sampling.py"),
    Mutation("a head drafts at the position after its own", "harness/heads/expander.py",
             "count - 1 + depth", "count + depth", "tests/harness/heads/test_head_networks.py"),
    Mutation("a head reads on behind the nodes of the last tree", "harness/heads/expander.py",
             "            cache.cut(done)\n", "            pass\n", "tests/harness/heads/test_head_networks.py"),
    Mutation("siblings of a head's tree see each other", "harness/heads/expander.py",
             "ancestors.to(device)], 1)", "ancestors.to(device) | True], 1)",
             "tests/harness/heads/test_head_networks.py"),
    Mutation("a block of a block drafter sees the others", "harness/heads/block.py",
             "blocks[:, None, :, None] & ", "blocks[:, None, :, None] | ", "tests/strategies/test_block_heads.py"),
    Mutation("a block drafter of others reads the layer below the right one", "harness/models/head_layouts.py",
             '"dspark_target_layer_ids"), 1)', '"dspark_target_layer_ids"), 0)',
             "tests/harness/models/test_public_blocks.py"),
    Mutation("a tensor of a published head is left out unseen", "harness/models/public_heads.py",
             "        if ours is None:", "        if False:", "tests/harness/models/test_public_heads.py"),
    Mutation("an embedding of a published head is not used", "harness/models/public_heads.py",
             "rtol=0.02, atol=1e-5", "rtol=0.02, atol=10", "tests/harness/models/test_public_eagle.py"),
    Mutation("the new tokens of an edit see the old text behind it", "harness/engine/session.py",
             "torch.cat([torch.zeros(count, before", "torch.cat([torch.ones(count, before",
             "tests/harness/engine/test_session_edits.py"),
    Mutation("keys behind an edit are rotated the wrong way", "harness/engine/cached_sequence.py",
             "self._rotate(first + count, by)", "self._rotate(first + count, -by)",
             "tests/harness/engine/test_session_edits.py"),
    Mutation("a sequence goes back to tokens that were rounded", "harness/engine/cached_sequence.py",
             "            self.settled = self.cached", "            pass", "tests/strategies/test_kv_quant.py"),
    Mutation("tokens that fill no unit yet are not seen behind the window", "strategies/parts/units.py",
             "every = torch.ones(query.shape[1], count", "every = torch.zeros(query.shape[1], count",
             "tests/strategies/test_infllm.py"),
    Mutation("the whole memory is seen, not its most similar tokens", "strategies/extended_mind.py",
             "torch.full_like(cosine, lowest, dtype", "torch.full_like(cosine, 0, dtype",
             "tests/strategies/test_extended_mind.py"),
    Mutation("states of earlier layers stay where a rejected draft was", "harness/engine/cached_sequence.py",
             "memory.move([self.cached + slot for slot in candidates], self.cached)", "pass",
             "tests/harness/engine/test_session.py"),
    Mutation("a head is trained to predict the token that it reads", "harness/laboratory/training.py",
             "network.stride * rows[1] + ahead)", "network.stride * rows[1] + ahead - 1)",
             "tests/harness/laboratory/test_head_training.py"),
    Mutation("a model that is trained with its head learns the token that it reads", "harness/laboratory/tuning.py",
             "before, weight = functional.pad(batch.answer[:, 1:], (0, 1)),", "before, weight = batch.answer,",
             "tests/harness/laboratory/test_tuning.py"),
    Mutation("tokens are chosen from logits that are NaN", "harness/backends/trace.py",
             "    if session.has_nan:\n        raise FloatingPointError(NAN)\n    result", "    result",
             "tests/law/test_every_strategy.py -k nan"),
    Mutation("a program in the sandbox may open sockets", "harness/sandbox/protections.py",
             '"socket": (41, 198), ', "", "tests/harness/sandbox/test_sandbox_hostile.py"),
    Mutation("a program that ends before its tests passes", "harness/sandbox/__init__.py",
             'if verdict == "passed":', 'if verdict == "passed" or verdict == "":',
             "tests/harness/sandbox/test_sandbox.py"),
    Mutation("a knob given twice is taken silently", "harness/plugins/spec.py",
             "if key.strip() in knobs:", "if key in ():", "tests/harness/plugins/test_spec.py"),
    Mutation("specs round the values of knobs", "harness/plugins/plugin.py",
             'return f"{value:g}" if float(f"{value:g}") == value else repr(value)', 'return f"{value:g}"',
             "tests/harness/plugins/test_plugin.py"),
    Mutation("tokens a drafted step leave out the one after the drafts", "harness/measure/acceptance.py",
             "return 1 + ratio(accepted, drafts)", "return ratio(accepted, drafts)",
             "tests/harness/measure"),
    Mutation("SLED takes the change from the last layer to the early one the other way round", "strategies/sled.py",
             "exits - last", "last - exits", "tests/strategies/test_layer_contrasts.py -k numbers"),
    Mutation("DeLTa reads its line at the final layer", "strategies/delta_layers.py",
             "count - 1 + ahead - mean", "count - 1 - mean", "tests/strategies/test_layer_contrasts.py -k numbers"),
    Mutation("a step is judged by the log p one token too late", "strategies/speculative_reasoning.py",
             "TokenTree.chain(step)).logits[:-1]", "TokenTree.chain(step)).logits[1:]",
             "tests/strategies/test_speculative_reasoning.py -k log_p"),
    Mutation("verify takes tokens that cannot be drawn for rounding", "harness/verify/distribution.py",
             "impossible = lost & (_gather(wider, drawn) == 0)", "impossible = lost & (_gather(wider, drawn) < 0)",
             "tests/harness/verify/test_checker.py -k edge"),
    Mutation("check gates on quality although the fall may be chance", "harness/regression/check.py",
             "return two_sided / 2 if fall > 0", "return two_sided / 200 if fall > 0",
             "tests/harness/regression/test_check.py"),
    Mutation("a repeat reaches back over a breaker", "harness/decoding/penalty.py",
             "max(lengths.get(back[place], 0), min(length, limit))", "max(lengths.get(back[place], 0), length)",
             "tests/strategies/test_dry.py"),
    Mutation("after a rewind a text may begin again that was yielded", "harness/decoding/rewind.py",
             "*(self.free[place] for place in places)", "*places", "tests/strategies/test_loop_breaker.py"),
    Mutation("a ban of a later place holds after a rewind to an earlier one", "harness/decoding/rewind.py",
             "for place, old in self.bans if place <= kept), ", "for place, old in self.bans), ",
             "tests/strategies/test_banned_strings.py"),
    Mutation("a new thinking section has only what the last one left of its budget", "strategies/thinking_budget.py",
             "if end - len(self.start) >= closed]", "]", "tests/strategies/test_thinking_budget.py"),
    Mutation("a maximum of tokens a step is taken for a minimum", "harness/regression/check.py",
             "sign * (bound - tau) > ROUNDING", "bound - tau > ROUNDING", "tests/harness/regression/test_check.py"),
    Mutation("a server's wrong token is taken for a tie", "harness/verify/answers.py",
             "    elif close:", "    elif gap.margin:", "tests/harness/verify/test_verify_server.py"),
    Mutation("the smallest of several p-values is taken without correction", "harness/stats/two_samples.py",
             "float((scores.max(1) >= scores[0].max() - 1e-9).mean())", "float(reached.min())",
             "tests/harness/verify/test_verify_server.py -k two_samples"),
    Mutation("EOS hides the loop before it", "harness/measure/loops.py",
             'repetitive(ids[:-1] if stop == "eos" else ids)', "repetitive(ids)", "tests/harness/measure/test_tau.py"),
    Mutation("a short draft is dropped although its tokens were sampled", "strategies/drafters/cascaded.py",
             "(tree.probs or levels(tree) >= min(self.least, limit))", "levels(tree) >= min(self.least, limit)",
             "tests/strategies/test_cascade.py -k preserve"),
    Mutation("a draft that nothing verified counts against its drafter", "strategies/drafters/cascaded.py",
             "part.root in (ROOT, *last.path)", "True",
             "tests/strategies/test_cascade.py -k extends"),
    Mutation("the batch verifies the first drafts, not the likeliest ones", "strategies/drafters/load.py",
             "sorted(scores)[:capacity]", "scores[:capacity]",
             "tests/strategies/test_load_lengths.py -k likeliest"),
    Mutation("drafted tokens are written to the pool before they are verified", "strategies/ngram_pool.py",
             "        self.write(sequence)\n        t", "        self.write([*sequence, *drafted])\n        t",
             "tests/strategies/test_ngram_pool.py"),
    Mutation("a draft made ahead is used after another token", "strategies/ssd.py",
             "self.branches.get((accepted, last.token))", "next(iter(self.branches.values()))",
             "tests/strategies/test_ssd.py"),
    Mutation("a state is changed one layer too early", "harness/engine/hooks.py",
             'int(number) - (part == "hidden")', 'int(number) - 2 * (part == "hidden")',
             "tests/strategies/test_clamp.py"),
    Mutation("weights learnt for a sequence stay in the model", "harness/engine/gradients.py",
             "owner[key] = weight", "pass", "tests/strategies/test_dynamic_evaluation.py"),
    Mutation("keys of the weights before a step are kept", "strategies/dynamic_evaluation.py",
             "adapted.follow([])", "pass", "tests/strategies/test_dynamic_evaluation.py"),
    Mutation("log p of the tokens that a corpus allows is renormalised", "strategies/seal.py",
             "super().scored(log_p).masked_fill", "super().scored(log_p.masked_fill(~possible, -torch.inf)"
             ".log_softmax(-1)).masked_fill", "tests/strategies/test_seal.py"),
    Mutation("members of a set see each other", "strategies/parts/places.py",
             "own[:, None] != own", "False", "tests/strategies/test_set_based_prompting.py"),
    Mutation("a queue is read at its end", "strategies/extended_decoding.py",
             "*(queue[:self.window]", "*(queue[-self.window:]", "tests/strategies/test_extended_decoding.py"),
    Mutation("the context of a prompt is not repeated", "strategies/read_twice.py",
             "[context or question] * self.copies", "[context or question]", "tests/strategies/test_read_twice.py"),
    Mutation("Adam's moments stay where they are when its slots move on", "strategies/parts/optimised.py",
             "kept, new = slice(first - self.first, None)", "kept, new = slice(0, last - first)",
             "tests/strategies/test_hidden_state_search.py -k torchs"),
    Mutation("an entry of a datastore votes for itself", "strategies/parts/imitating.py",
             "others = np.arange(values.shape[1]) != itself[:, None]",
             "others = np.arange(values.shape[1]) != np.full_like(itself, values.shape[1] - 1)[:, None]",
             "tests/strategies/test_mlp_memory.py -k votes"),
    Mutation("predicted keys are not rotated", "strategies/parts/kv_map.py",
             "target.rotary.turned(layer, keys[None], places)[0], values", "keys, values",
             "tests/strategies/test_kv_prediction.py -k nothing_give"),
    Mutation("a filled row ends where it ended before", "harness/engine/engine.py",
             "self.cache.fill(row.index, contents)\n        row.end = count", "self.cache.fill(row.index, contents)",
             "tests/harness/engine/test_session_edits.py -k filled"),
    Mutation("on another device, the cache is written by the indices of the first", "harness/engine/cache.py",
             "if slots.device != key_states.device:", "if False:", "tests/device/test_spread.py -k keys_lie"),
    Mutation("a forward copies a mask for every layer", "harness/models/spread.py",
             "if key not in self._made:", "if True:", "tests/device/test_spread.py -k keys_lie"),
    Mutation("a precision is suggested in which a model does not fit either", "harness/models/size.py",
             "if halves != sizes and _total(halves, tokens) <= free:", "if halves != sizes:",
             "tests/harness/models/test_size.py -k names_only"),
    Mutation("all heads keep the keys that the first one chose", "harness/engine/cache.py",
             "gather(1, kept[", "gather(1, kept[:1].expand_as(kept)[",
             "tests/strategies/test_attention_policies.py -k masks"),
    Mutation("the attention of a rejected draft counts", "harness/engine/cached_sequence.py",
             "self._queries.move([first + slot for slot in candidates], first)", "pass",
             "tests/strategies/test_attention_policies.py -k candidates"),
    Mutation("a key gets the attention that its new slot received before", "strategies/h2o.py",
             "mass=state.mass.gather(-1, slots)", "mass=state.mass[..., :slots.shape[-1]]",
             "tests/strategies/test_attention_policies.py -k masks"),
    Mutation("a page is bounded by keys that its token does not see", "strategies/quest.py",
             "bounds(key, page.masked_fill(~seen, count), count)", "bounds(key, page, count)",
             "tests/strategies/test_attention_policies.py -k masks"),
    Mutation("a hook on attention is lost under a cache policy", "harness/engine/attention_hooks.py",
             "partial(function, _current(attention)), name", "partial(function, _eager(attention)), name",
             "tests/harness/engine/test_cache_policy.py"),
    Mutation("a merged run keeps the times of other kinds of machines", "harness/store/merge.py",
             "else _untimed(part.store)", "else _timed(part.store)", "tests/harness/store/test_merge.py"),
    Mutation("a block is dealt to several shards", "harness/run/cells.py",
             "== shard.number - 1", "<= shard.number - 1", "tests/harness/store/test_merge.py"),
    Mutation("a block begins that cannot end within the budget", "harness/run/budget.py",
             "now + self.longest > self.began", "now > self.began", "tests/harness/run/test_budget.py"),
    Mutation("a run on another kind of machine keeps the times measured there", "harness/store/folder.py",
             "[record if self.timed else without_times(record)]", "[record]", "tests/harness/store/test_machine.py"),
    Mutation("workers that share a machine count as workers that do not", "harness/cluster/worker.py",
             "if self.beside > 1", "if self.beside > 2", "tests/harness/cluster/test_workers.py"),
    Mutation("a shard starts anew when it goes on at another worker", "harness/cluster/worker.py",
             "write_files(folder_of(plan), earlier)", "write_files(folder_of(plan), {})",
             "tests/harness/cluster/test_workers.py"),
    Mutation("a cluster run splits a folder into other shards than it has", "harness/cluster/driver.py",
             "    if before:\n", "    if not before:\n", "tests/harness/cluster/test_workers.py"),
    Mutation("a page that fails takes the answers of the earlier one with it", "harness/report/beside.py",
             "self._keep(old)", "self._keep(new)", "tests/harness/report/test_answers_beside.py"),
    Mutation("a page has samples that its tables do not have", "harness/report/page_samples.py",
             "records(store, range(length))", "records(store)", "tests/harness/report/test_answers_beside.py"),
    Mutation("the bet on a score knows the score", "harness/stats/confidence_sequence.py",
             "np.append(0.25, variances[:-1])", "variances", "tests/harness/stats/test_confidence_sequence.py"),
    Mutation("the baseline leaves a task before the last strategy", "harness/run/precision.py",
             "begun | wide | {self.baseline}", "begun | wide", "tests/harness/run/test_precision.py"),
    Mutation("a block that was begun is not ended when its scores say enough", "harness/run/precision.py",
             "return begun | wide |", "return wide |", "tests/harness/run/test_precision.py"),
    Mutation("bounds of pages are not counted where the budget is a share", "strategies/quest.py",
             "(pages > self._budget(pages))", "(pages > self.count)", "tests/strategies/test_bytes_read.py"),
    Mutation("the last draft is verified without its exit state", "strategies/exit_draft.py",
             "self.read(tree.tokens[-1])", "self.states.append(self.states[-1])",
             "tests/strategies/test_exit_draft.py"),
    Mutation("positions of keys stay behind when their slots move", "harness/engine/positions.py",
             "return [*super()._moved(), *([self._place] if self._place.is_initialized else [])]",
             "return super()._moved()", "tests/harness/engine/test_source.py -k ragged"),
    Mutation("a row that is moved keeps the source of the closed one", "harness/engine/source.py",
             "self.cross.copy(last.index, row.index)", "pass", "tests/harness/engine/test_source.py -k fresh"),
    Mutation("a later row of the same source encodes it again", "harness/engine/source.py",
             "for row in self._rows:  # also", "for row in new:  # also",
             "tests/harness/engine/test_source.py -k once"),
    Mutation("the padding of a shorter source is attended to", "harness/engine/source.py",
             "read = self._read(self._lengths)", "read = self._read([max(self._lengths)] * len(self._lengths))",
             "tests/harness/engine/test_source.py -k ragged"),
    Mutation("the last token is forced one place too late", "harness/engine/forced.py",
             "count == limit - 1", "count == limit", "tests/parity/test_seq2seq.py -k forced"),
    Mutation("a next turn goes on with the source of the last one", "harness/engine/source.py",
             "if row.placed is not row.source]", "if row.placed is None]",
             "tests/harness/engine/test_source.py -k fresh"),
    Mutation("the keys of a block count as final while it has masks", "harness/decoding/canvas.py",
             "self._final = own", "self._final = last", "tests/harness/decoding/test_canvas.py"),
    Mutation("a window is written over the keys behind it", "harness/decoding/canvas.py",
             "*range(last, len(self.tokens)), *range(lead, last)]", "*range(lead, len(self.tokens))]",
             "tests/harness/decoding/test_canvas.py"),
    Mutation("tokens are given away that may still be edited", "harness/decoding/canvas_loop.py",
             "if not self.rounds() and (new", "if (new", "tests/strategies/test_diffusion.py"),
    Mutation("a masked place is closed by the token of the place before", "harness/decoding/canvas_loop.py",
             "self.tokens[place - self.canvas.window[0]]", "self.tokens[place - self.canvas.window[0] - 1]",
             "tests/law/test_canvas_law.py"),
    Mutation("the last entropy counts against the bound", "harness/decoding/closing.py",
             "if total - entropy <= most", "if total <= most", "tests/harness/decoding/test_closing.py"),
    Mutation("a strategy over one that fills masks may run where masks are filled", "harness/run/selection.py",
             " and not isinstance(strategy, Over)", "", "tests/harness/run/test_canvas_models.py"),
)


def outcome(mutation: Mutation, copy: Path) -> str:
    """`killed` or `survived`, or what else pytest said; the copy is as it was afterwards."""
    file = copy / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return "its snippet is gone: write it anew"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return {0: "survived", 1: "killed"}.get(code := run(mutation.tests.split(), copy), f"pytest ended with {code}")
    finally:
        file.write_text(text, encoding="utf-8")


def run(tests: list[str], copy: Path) -> int:
    """The exit code of the quick ones of some tests, run in a fork: it finds large libraries imported already."""
    child = os.fork()
    if not child:
        code = 70  # whatever happens here must not reach the code below, which is the parent's
        try:
            os.chdir(copy)
            sys.dont_write_bytecode, sys.path[0] = True, str(copy)
            for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
                del sys.modules[name]
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            code = pytest.main([*QUICKLY, *tests])
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(words: list[str]) -> int:
    """Try all mutations, or those with one of `words`; the exit code."""
    chosen = [each for each in MUTATIONS if not words or any(word in each.why + each.file for word in words)]
    missed = 0
    for library in LARGE:
        import_module(library)
    with tempfile.TemporaryDirectory(prefix="decodebench-mutations-") as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder, "project"), ignore=LEFT_OUT))
        for mutation in chosen:
            said = outcome(mutation, copy)
            missed += said != "killed"
            print(f"{said:<10}{mutation.file:<36}{mutation.why}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} killed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
