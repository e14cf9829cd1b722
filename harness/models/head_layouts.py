"""The file layouts of heads that others have published: how each is told, and what its tensors are called here.

Facts from the code that writes or reads the files: FasterDecoding/Medusa, vLLM, SafeAILab/EAGLE, z-lab's DFlash,
transformers, and vllm-project/speculators.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.heads.network import TargetParts

EMBEDDING, HEAD = "target.embedding", "target.head"  # names here of tensors that are usually copies of the target's
EITHER = "output.weight or target.head"  # the latter if it is for all tokens
PARTS = ("transformer_layer_config", "model", "dflash_config", "eagle_config", "clover")  # of configurations


@dataclass(frozen=True)
class Found:
    """What the files of a head hold, and the target that it is for: tensors have their names here."""

    config: Mapping[str, Any]
    target: TargetParts
    tensors: Mapping[str, Tensor]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def at(self, *names: str) -> Any:
        """Return the first of these fields that the configuration has."""
        return field(self.config, *names)

    def count(self, pattern: str) -> int:
        """Return how many values the group of a pattern has among the starts of names."""
        return len({found[1] for name in self.tensors if (found := re.match(pattern, name))})

    def drafted(self) -> int:
        """Return the number of tokens that the head's own output layer knows, or 0 for all of the target."""
        rows = len(self.tensors["output.weight"]) if "output.weight" in self else 0
        return 0 if rows == self.target.vocab else rows


def field(config: Mapping[str, Any], *names: str) -> Any:
    """Return the first of the fields that a configuration or one of its parts has, else None."""
    parts = [config, *(part for name in PARTS if isinstance(part := config.get(name), dict))]
    return next((part[name] for name in names for part in parts if part.get(name) is not None), None)


@dataclass(frozen=True)
class Layout:
    """A layout for heads of a `kind`.

    It is told by a tensor whose name matches `mark`, and by a field `flag` of the configuration if that is not empty.
    `names` maps patterns of names, in which LAST is the number of layers of a whole model, to names here, empty for
    tensors that are not used. `settings` are those of the network, and `tensors` all that are put into it. With `own`,
    the configuration tells the sizes of the layers. The network keeps what it started with where a tensor that matches
    `kept` is missing.
    """

    kind: str
    mark: str
    names: Mapping[str, str]
    settings: Callable[[Found], dict[str, Any]]
    tensors: Callable[[Found], dict[str, Tensor]] = lambda found: dict(found.tensors)
    flag: str = ""
    own: bool = False
    kept: str = ""

    def fits(self, config: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Whether files with tensors of these names have this layout."""
        marked = any(re.fullmatch(self.mark, name) for name in names)
        return marked and (not self.flag or bool(field(config, self.flag)))

    def name(self, config: Mapping[str, Any], theirs: str) -> str | None:
        """Return the name here of a tensor, empty if it is not used, or None if the layout does not have it."""
        last = str(field(config, "num_hidden_layers"))
        return next((found.expand(ours) for pattern, ours in self.names.items()
                     if (found := re.fullmatch(pattern.replace(LAST, last), theirs))), None)


def _joined(numbers: Iterable[int] | None, shift: int = 0) -> str:
    return "-".join(str(int(number) + shift) for number in numbers or ())


def _layer(theirs: str, ours: str) -> dict[str, str]:
    """Return the names of attention, MLP, and the norm between them."""
    return {rf"{theirs}self_attn\.(?P<part>[qkvo])_proj\.(?P<end>weight|bias)": rf"{ours}attention.\g<part>.\g<end>",
            rf"{theirs}self_attn\.(?P<part>[qk]_norm)\.weight": rf"{ours}attention.\g<part>.weight",
            rf"{theirs}mlp\.(?P<part>gate|up|down)_proj\.(?P<end>weight|bias)": rf"{ours}mlp.\g<part>.\g<end>",
            rf"{theirs}post_attention_layernorm\.weight": rf"{ours}mlp_norm.weight"}


def _tokens(found: Found) -> dict[str, Tensor]:
    """Refuse drafted tokens that the target does not have; a list of all of its tokens is not needed."""
    if "d2t" in found:
        ids = found.tensors["d2t"].long() + torch.arange(len(found.tensors["d2t"]))
        if not 0 <= int(ids.min()) <= int(ids.max()) < found.target.vocab:
            raise UserError(f"The head drafts token {int(ids.max())}, but the model has {found.target.vocab} tokens.")
    return {name: tensor for name, tensor in found.tensors.items() if name != "d2t" or found.drafted()}


def _medusa(found: Found) -> dict[str, Any]:
    if "token_map" in found or found.at("truncated_vocab_size") not in (None, found.at("vocab_size")):
        raise UserError("The head drafts a part of the vocabulary only, and so cannot be read: give another.")
    return {"heads": found.count(r"blocks\.(\d+)\."), "layers": found.count(r"blocks\.0\.(\d+)\."),
            "own": "outputs.0.weight" in found}


def _medusa_outputs(found: Found) -> dict[str, Tensor]:
    """The output layer of all heads, if it is stored once."""
    if "outputs.0.weight" not in found or found.count(r"outputs\.(\d+)\.") > 1:
        return dict(found.tensors)
    output, heads = found.tensors["outputs.0.weight"], _medusa(found)["heads"]
    return {**found.tensors, **{f"outputs.{head}.weight": output for head in range(heads)}}


def _eagle(found: Found) -> dict[str, Any]:
    return {"unroll": 5, "unit": False, "bias": "fc.bias" in found}


def _eagle3(found: Found) -> dict[str, Any]:
    return {"draft_vocab": found.drafted(), "taps": _joined(found.at("eagle_aux_hidden_state_layer_ids", "layer_ids")),
            "fc_norm": "fc_norm.0.weight" in found, "norm_before_fc": "before_norm.weight" in found,
            "norm_output": bool(found.at("norm_output")), "normed": "attention.q_norm.weight" in found,
            "norm_before_residual": bool(found.at("norm_before_residual"))}


def _block(found: Found) -> dict[str, Any]:
    """Settings of a block drafter: others number taps by the layer whose output they are, speculators by its input."""
    windows = _windows(found)
    taps = _joined(found.at("aux_hidden_state_layer_ids")) or _joined(
        found.at("target_layer_ids", "dspark_target_layer_ids"), 1)
    return {"block": int(found.at("block_size", "dspark_block_size") or 16), "layers": found.count(r"layers\.(\d+)\."),
            "taps": taps, "draft_vocab": found.drafted(), "unit": False,
            "causal": bool(found.at("causal_head", "causal", "is_causal")), "windows": _joined(windows),
            "causal_windows": any(windows) and _causal_windows(found),
            "sample_from_anchor": bool(found.at("sample_from_anchor", "shift_label"))}


def _windows(found: Found) -> list[int]:
    """Return how many positions each layer sees, 0 for all, or nothing if all layers see all."""
    layers, kinds = found.count(r"layers\.(\d+)\."), list(found.at("layer_types") or ())
    sliding = [kind == SLIDING for kind in kinds] if SLIDING in kinds else [bool(found.at("use_swa"))] * layers
    if not any(sliding):
        return []
    window = found.at("swa_window_size", "sliding_window")
    if not isinstance(window, int) or window < 1:
        raise UserError(f"The head attends to a sliding window of {window} positions, which cannot be.")
    return [window + _transformers(found) if slides else 0 for slides in sliding]  # they count the distance


def _causal_windows(found: Found) -> bool:
    """Whether layers with windows are causal where no field tells that all layers are, or are not: as vLLM has it."""
    told = found.at("causal_head", "causal", "is_causal"), found.at("sliding_window_non_causal"), found.at("use_swa")
    return told[0] is None and not told[1] and not told[2] and not _transformers(found)


def _transformers(found: Found) -> bool:
    return str(found.at("model_type")).endswith("_assistant")


def _mask(found: Found) -> dict[str, Tensor]:
    """The embedding of the token that stands for a mask."""
    place, known = found.at("mask_token_id", "dspark_noise_token_id", "pard_token"), found.target.parts.embedding.weight
    if not isinstance(place, int) or not 0 <= place < len(known):
        raise UserError(f"The head's mask is token {place}, which the model does not have.")
    mask: Tensor = found.target.embedding(torch.tensor([place], device=known.device))
    return _tokens(found) | {"mask": mask[0]}


def _dspark(found: Found) -> dict[str, Any]:
    """Here the row of the last token drafts too, unless a field tells otherwise."""
    anchor = found.at("sample_from_anchor")
    return _block(found) | {"rank": found.tensors["markov_in.weight"].shape[-1],
                            "sample_from_anchor": not found.at("dspark_bonus_anchor") if anchor is None else anchor}


def _domino(found: Found) -> dict[str, Any]:
    pure = found.at("pure_draft_prefix_len")
    if found.at("shift_label") is False:
        raise UserError("The rows of the head predict their own places, which Domino's here do not: give another.")
    return _block(found) | {"sample_from_anchor": True, "pure": 1 if pure is None else pure,
                            "gru": found.tensors["gru.weight_hh"].shape[-1],
                            "inner": len(found.tensors["correction.0.weight"])}


def _dflash2(found: Found) -> dict[str, Any]:
    kernel, size = found.tensors["layers.0.mlp_conv.base"].shape[1:]
    groups = len(found.tensors["layers.0.mlp_conv.projection.weight"]) // (2 * kernel)
    return _block(found) | {"kernel": kernel, "group": size // groups, "top": int(found.at("selector_top_k") or 16),
                            "rank": len(found.tensors["selector.weight"])}


def _p_eagle(found: Found) -> dict[str, Any]:
    if found.at("norm_before_residual"):
        raise UserError("The head adds to normed states, which P-EAGLE's here do not: give another.")
    return {"block": int(found.at("num_depths", "speculative_tokens") or 8), "layers": found.count(r"layers\.(\d+)\."),
            "taps": _joined(found.at("eagle_aux_hidden_state_layer_ids", "layer_ids")), "own": "output.weight" in found,
            "draft_vocab": found.drafted()}


def _p_eagle_tensors(found: Found) -> dict[str, Tensor]:
    return _mask(found) | {"mask_hidden": found.tensors["mask_hidden"].flatten()}


def _clover2(found: Found) -> dict[str, Any]:
    return {"heads": int(found.at("num_heads") or 5), "layers": found.count(r"layers\.(\d+)\."), "unit": False}


def _chimera(found: Found) -> dict[str, Any]:
    return {"heads": found.count(r"outputs\.(\d+)\."), "unit": False}


def _hydra(found: Found) -> dict[str, Any]:
    if found.at("hidden_state_offset"):
        raise UserError("The head reads an earlier layer of the model, which Hydra's heads here do not: give another.")
    return {"heads": found.count(r"blocks\.(\d+)\."), "layers": found.count(r"blocks\.0\.(\d+)\."),
            "prefix": "norm.weight" in found, "unit": False}


def _hydra_tensors(found: Found) -> dict[str, Tensor]:
    """Number the blocks of a head one by one, between which others have layers without tensors."""
    places = sorted({int(number[1]) for name in found.tensors if (number := re.match(r"blocks\.\d+\.(\d+)\.", name))})
    return {re.sub(r"^(blocks\.\d+)\.(\d+)", lambda found: f"{found[1]}.{places.index(int(found[2]))}", name): tensor
            for name, tensor in found.tensors.items()}


def _mlp_speculator(found: Found) -> dict[str, Any]:
    return {"heads": found.at("n_predict") or found.count(r"head\.(\d+)\."), "inner": len(found.tensors["ln.0.weight"]),
            "tied": bool(found.at("tie_weights")), "scaled": bool(found.at("scale_input"))}


def _mlp_tensors(found: Found) -> dict[str, Tensor]:
    """Leave out the tensors of later stages if they are those of the first one."""
    tied = bool(found.at("tie_weights"))
    return {name: tensor for name, tensor in found.tensors.items()
            if not tied or re.match(r"\w+\.0\.|proj\.1\.", name)}


def _redrafter(found: Found) -> dict[str, Any]:
    return {"layers": found.count(r"blocks\.(\d+)\."), "size": found.tensors["output.weight"].shape[-1],
            "rnn": "rnn_w.weight" in found, "unit": False}


def _mtp(found: Found) -> dict[str, Any]:
    return {"normed": "layer.attention.q_norm.weight" in found}


LAST, SLIDING = "LAST", "sliding_attention"
TOP = r"(?:model\.)?"
UNUSED = {r".*rotary_emb\.inv_freq": "", r"verifier_(?:norm|lm_head)\.weight": "", "t2d": ""}
WORDS = {rf"{TOP}embed_tokens\.weight": EMBEDDING}
FIRST = rf"{TOP}(?:midlayer|layers\.0)\."
BLOCK = UNUSED | WORDS | _layer(rf"{TOP}layers\.(?P<at>\d+)\.", r"layers.\g<at>.") | {
    rf"{TOP}layers\.(?P<at>\d+)\.input_layernorm\.weight": r"layers.\g<at>.input_norm.weight",
    rf"(?:{TOP}|encoder\.)fc\.(weight|bias)": r"fc.\1",
    rf"{TOP}hidden_norm\.weight|encoder\.output_norm_enc\.weight": "context_norm.weight",
    rf"{TOP}norm\.weight": "norm.weight", r"lm_head\.weight": EITHER, "d2t": "d2t"}
BLOCK_MARK = rf"{TOP}hidden_norm\.weight|encoder\.output_norm_enc\.weight"
MODULE = rf"model\.layers\.{LAST}\."
PREFIX = r"prefix_embeding_layer\.layers\.0\."
HEADS = r"(\d+)\.(\d+)\.linear\.(weight|bias)", r"(\d+)\.\d+\.weight"

LAYOUTS = (
    Layout("medusa", r"medusa_head\.0\.0\.linear\.weight",
           {rf"medusa_head\.{HEADS[0]}": r"blocks.\1.\2.linear.\3", rf"medusa_head\.{HEADS[1]}": r"outputs.\1.weight",
            r"(?!medusa_head\.).*": ""}, _medusa),  # the rest is a whole model
    Layout("medusa", r"0\.0\.linear\.weight",
           {HEADS[0]: r"blocks.\1.\2.linear.\3", HEADS[1]: r"outputs.\1.weight"}, _medusa),
    Layout("medusa", r"(?:medusa_heads\.)?blocks\.0\.layers\.0\.weight",
           {r"(?:medusa_heads\.)?blocks\.(\d+)\.layers\.(\d+)\.(weight|bias)": r"blocks.\1.\2.linear.\3",
            r"(?:medusa_heads\.)?lm_heads\.(\d+)\.weight": r"outputs.\1.weight",
            r"(?:medusa_heads\.)?lm_head\.weight": HEAD, r"(?:medusa_heads\.)?token_map": "token_map"},
           _medusa, _medusa_outputs),
    Layout("p_eagle", "mask_hidden", UNUSED | WORDS | {"mask_hidden": "mask_hidden", "d2t": "d2t"} | {
        rf"{FIRST}hidden_norm\.weight": "layers.0.input_norm.second.weight",
        rf"{FIRST}input_layernorm\.weight": "layers.0.input_norm.first.weight",
        rf"{TOP}layers\.(?P<at>\d+)\.input_layernorm\.weight": r"layers.\g<at>.input_norm.weight",
        rf"{TOP}fc\.(weight|bias)": r"fc.\1", rf"{TOP}norm\.weight": "norm.weight", r"lm_head\.weight": "output.weight"}
        | _layer(rf"{TOP}midlayer\.", "layers.0.") | _layer(rf"{TOP}layers\.(?P<at>\d+)\.", r"layers.\g<at>."),
        _p_eagle, _p_eagle_tensors, own=True),
    Layout("eagle3", rf"{FIRST}hidden_norm\.weight", UNUSED | WORDS | _layer(FIRST, "") | {
        rf"{FIRST}hidden_norm\.weight": "state_norm.weight", rf"{FIRST}input_layernorm\.weight": "word_norm.weight",
        rf"{TOP}fc\.(weight|bias)": r"fc.\1", rf"{TOP}fc_norm\.(\d+)\.weight": r"fc_norm.\1.weight",
        rf"{TOP}input_norm\.weight": "before_norm.weight", rf"{TOP}norm\.weight": "norm.weight",
        r"lm_head\.weight": "output.weight", "d2t": "d2t"}, _eagle3, _tokens, own=True, kept=r"output\.weight"),
    Layout("dspark", r".*markov_head\.markov_w1\.weight", BLOCK | {
        rf"{TOP}markov_head\.markov_w1\.weight": "markov_in.weight", rf"{TOP}confidence_head\..*": "",
        rf"{TOP}markov_head\.markov_w2\.weight": "markov_out.weight"}, _dspark, _mask, own=True),
    Layout("domino", r".*prefix_gru\.weight_ih_l0", BLOCK | {
        rf"(?:{TOP}|domino_head\.)prefix_gru\.weight_([ih]h)_l0": r"gru.weight_\1",
        rf"(?:{TOP}|domino_head\.)embed_proj\.([02])\.weight": r"correction.\1.weight"}, _domino, _mask, own=True),
    Layout("dflash2", r".*candidate_selector\.predecessor_codebook(?:\.weight)?", BLOCK | {
        rf"{TOP}layers\.(\d+)\.(attention|mlp)_conv\.base_kernel": r"layers.\1.\2_conv.base",
        rf"{TOP}layers\.(\d+)\.(attention|mlp)_conv\.kernel_projection\.weight": r"layers.\1.\2_conv.projection.weight",
        rf"{TOP}candidate_selector\.predecessor_codebook(?:\.weight)?": "markov_in.weight",
        rf"{TOP}candidate_selector\.successor_codebook(?:\.weight)?": "markov_out.weight",
        rf"{TOP}candidate_selector\.hidden_projection\.weight": "selector.weight"}, _dflash2, _mask, own=True),
    Layout("jetspec", BLOCK_MARK, BLOCK, _block, _mask, flag="causal_head", own=True),
    Layout("dflash", BLOCK_MARK, BLOCK, _block, _mask, own=True),
    Layout("clover2", r"clover_head_mlp_rnn\.q\.weight", UNUSED | {
        r"clover_embed_tokens\.weight|lm_head\.weight": HEAD, r"clover_norm\.weight": "norm.weight",
        r"clover_head_norm\.weight": "head_norm.weight", r"clover_head_mlp\.(weight|bias)": r"maps.0.\1",
        r"clover_head_mlp2\.(weight|bias)": r"maps.1.\1",
        r"clover_head_mlp_rnn\.([qkv])\.(weight|bias)": r"gates.0.\1.\2",
        r"clover_head_mlp_rnn2\.([qkv])\.(weight|bias)": r"gates.1.\1.\2",
        r"clover_head_mlp_rnn\.input_layernorm\.weight": "gates.0.norm.weight",
        r"clover_head_mlp_rnn2\.input_layernorm\.weight": "gates.1.norm.weight",
        r"layers\.(?P<at>\d+)\.input_layernorm\.weight": r"layers.\g<at>.input_norm.weight"}
        | _layer(r"layers\.(?P<at>\d+)\.", r"layers.\g<at>."), _clover2, own=True),
    Layout("fspad", r"fc\.fc\.weight", UNUSED | WORDS | _layer(rf"{TOP}layers\.0\.", "") | {
        r"fc\.fc\.(weight|bias)": r"fc.\1", r"fc\.mlp\.(gate|up|down)_proj\.weight": r"sampler.\1.weight",
        r"fc\.post_attention_layernorm\.weight": "sampler_norm.weight"}, _eagle, own=True),
    Layout("eagle", rf"{TOP}(?:fusion_)?fc\.weight",
           UNUSED | WORDS | _layer(rf"(?:{TOP}layers\.0|transformer)\.", "layer.") | {
               rf"{TOP}(?:fusion_)?fc\.(weight|bias)": r"fc.\1", r"lm_head\.weight": HEAD}, _eagle, own=True),
    Layout("hydra", r"hydra_mlp\.0\.[01]\.linear\.weight", _layer(PREFIX, "prefix.") | {
        r"hydra_mlp\.(\d+)\.(\d+)\.linear\.(weight|bias)": r"blocks.\1.\2.linear.\3",
        r"hydra_mlp\.(\d+)\.(\d+)\.res_connection\.(weight|bias)": r"blocks.\1.\2.around.\3",
        r"hydra_lm_head\.(\d+)\.(?:1\.)?(weight|bias)": r"outputs.\1.\2",
        rf"{PREFIX}input_layernorm\.weight": "prefix.input_norm.weight", r"input_embed_fn\.weight": EMBEDDING,
        r"prefix_embeding_layer\.norm\.weight": "norm.weight", r"prefix_embeding_layer\.embed_tokens\.weight": "",
        r".*rotary_emb\.inv_freq": ""}, _hydra, _hydra_tensors),
    Layout("chimera", r"0\.linear\.weight", _layer(r"0\.", "layer.") | {
        r"0\.linear\.(weight|bias)": r"encoder.0.linear.\1", r"1\.weight": "encoder.1.weight",
        r"0\.input_layernorm\.weight": "layer.input_norm.weight", r"(\d+)\.0\.weight": r"outputs.\1.weight",
        r".*rotary_emb\.inv_freq": ""}, _chimera),
    Layout("mlp_speculator", r"(?:speculator\.)?ln\.0\.weight", {
        r"(?:speculator\.)?(emb|proj|head)\.(\d+)\.weight": r"\1.\2.weight",
        r"(?:speculator\.)?ln\.(\d+)\.(weight|bias)": r"ln.\1.\2"}, _mlp_speculator, _mlp_tensors),
    Layout("redrafter", r"lm_head\.0\.linear\.weight", {
        r"(rnn_u|rnn_w|input_proj)\.(weight|bias)": r"\1.\2", r"lm_head\.(\d+)\.linear\.(weight|bias)":
        r"blocks.\1.linear.\2", r"lm_head\.\d+\.weight": "output.weight"}, _redrafter),
    Layout("mtp", r"model\.layers\.\d+\.eh_proj\.weight", _layer(MODULE, "layer.") | {
        rf"{MODULE}eh_proj\.weight": "fc.weight", rf"{MODULE}enorm\.weight": "word_norm.weight",
        rf"{MODULE}hnorm\.weight": "state_norm.weight", rf"{MODULE}shared_head\.norm\.weight": "norm.weight",
        rf"{MODULE}shared_head\.head\.weight": HEAD, rf"{MODULE}embed_tokens\.weight": EMBEDDING,
        rf"{MODULE}input_layernorm\.weight": "layer.input_norm.weight", rf"{MODULE}.*rotary_emb\.inv_freq": "",
        rf"(?!{MODULE}).*": ""}, _mtp),  # the rest is the model, and further modules
)
