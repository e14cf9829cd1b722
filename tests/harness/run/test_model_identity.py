"""What a run remembers of its models: precision, tokenizer, template and EOS; and drafts with a padded output layer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.measure.compare import refusals
from harness.models.loading import load
from harness.models.prompts import encode
from harness.models.vocabulary import CutHead
from harness.run.loading import load_draft
from harness.run.plan import in_float32, make
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from strategies.dola import Dola
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from tests.decode import decode
from tests.models import tiny_model
from tests.pair import VOCAB, saved, tokenizer
from tests.watch import Quiet

TEMPLATE = "{% for one in messages %}{{ one['role'] }}: {{ one['content'] }}\n{% endfor %}"
THINKING = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<no thoughts>{% endif %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(saved("llama"), tmp_path / "model")


def config(folder: Path, name: str = "run", **more: object) -> RunConfig:
    (folder.parent / "ask.jsonl").write_text('{"turns": ["Hi?"], "checker": "none"}\n')
    return RunConfig(model=str(folder), tasks=(f"task_file:file={folder.parent / 'ask.jsonl'}",), threads=1,
                     strategies=("greedy",), max_new_tokens=4, output=folder.parent / name, device="cpu",
                     **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["template", "tokenizer", "eos"])
def test_a_run_is_not_resumed_with_another_tokenizer_template_or_eos(folder: Path, change: str) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    run(config(folder), Quiet(), "")
    before = Store.open(folder.parent / "run").manifest
    run(config(folder), Quiet(), "")
    if change == "template":
        (folder / "chat_template.jinja").write_text(TEMPLATE + "!")
    elif change == "eos":
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, 7]}))
    else:
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace('"use_regex": false', '"use_regex": true').replace(
            '"use_regex":false', '"use_regex":true'))
    with pytest.raises(UserError, match=r"holds another run \(model\.tokenizer differs\)"):
        run(config(folder), Quiet(), "")
    run(config(folder, "other"), Quiet(), "")
    after = Store.open(folder.parent / "other").manifest
    assert [text for text in refusals(before, after) if "the tokenizer, chat template or EOS of the model" in text]


def test_the_place_of_a_model_does_not_count(folder: Path) -> None:
    assert load(str(folder)).text_identity == load(str(saved("llama"))).text_identity != ""


def test_the_template_gets_its_variables(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(THINKING)
    for arguments, end in (((), "\n"), (("enable_thinking=false",), "<no thoughts>"),
                           (("enable_thinking=true", "other=x"), "\n")):
        plan = make(config(folder, f"run{len(arguments)}{end == chr(10)}", template_args=arguments), "")
        prompt = encode(plan.target, [{"role": "user", "content": "Hi?"}])
        assert plan.target.tokenizer.decode(prompt) == f"user: Hi?\n{end}".replace("\n\n", "\n")
        assert plan.manifest.config.get("template_args", ()) == arguments
    with pytest.raises(UserError, match="Write --template-arg as NAME=VALUE, not 'enable_thinking'"):
        make(config(folder, template_args=("enable_thinking",)), "")


def test_a_template_that_writes_the_date_is_pointed_out(folder: Path) -> None:
    assert not any("date" in text for text in make(config(folder), "").manifest.warnings)
    (folder / "chat_template.jinja").write_text(TEMPLATE + "{{ strftime_now('%d %b %Y') }}")
    (warning,) = make(config(folder), "").manifest.warnings
    assert "may write today's date" in warning


def test_each_model_may_have_its_own_precision(folder: Path) -> None:
    plan = make(replace(config(folder), model=f"{folder}:bfloat16", draft=f"{saved('llama', 1)}:float16",
                        strategies=("speculative",)), "")
    assert plan.draft
    assert (plan.target.engine.dtype, plan.draft.engine.dtype) == (torch.bfloat16, torch.float16)
    assert plan.manifest.draft
    assert (plan.manifest.model.dtype, plan.manifest.draft.dtype) == ("bfloat16", "float16")
    assert (plan.manifest.model.name, plan.config.model) == (str(folder), str(folder))
    precise = in_float32(plan)
    assert precise
    assert precise.draft
    assert {precise.target.engine.dtype, precise.draft.engine.dtype} == {torch.float32}


@pytest.mark.parametrize("larger", ["target", "draft"])
def test_a_draft_model_may_have_a_padded_output_layer(tmp_path: Path, larger: str) -> None:
    """The padding would be a likely token, so that an answer with it shows that it was left out."""
    wide = tiny_model("llama", vocab=VOCAB + 5)
    with torch.no_grad():
        narrow = tiny_model("llama", vocab=VOCAB)
        for name, weight in narrow.named_parameters():
            own = dict(wide.named_parameters())[name]
            own[:len(weight)] = weight
        wide.lm_head.weight[VOCAB:] = 3 * wide.lm_head.weight[7]
    wide.save_pretrained(tmp_path / "wide")
    tokenizer().save_pretrained(tmp_path / "wide")
    names = {"target": str(saved("llama")), "draft": str(saved("llama"))} | {larger: str(tmp_path / "wide")}
    settings = RunConfig(model=names["target"], draft=names["draft"], device="cpu", dtype="float32")
    target = load(names["target"])
    strategy = Speculative(gamma=3)
    draft = load_draft(settings, target, [strategy])
    assert draft
    assert target.vocab == draft.vocab == VOCAB
    wider = target if larger == "target" else draft
    assert isinstance(wider.engine.model.get_output_embeddings(), CutHead)
    plain = decode(Greedy(), load(str(saved("llama"))).engine, [5, 6, 7])
    assert decode(Greedy(), target.engine, [5, 6, 7]) == plain
    assert decode(strategy, target.engine, [5, 6, 7], draft=draft.engine) == plain
    sampled = Speculative(gamma=3, temperature=1.0)
    assert max(decode(sampled, target.engine, [5, 6, 7], draft=draft.engine, eos=None)) < VOCAB
    assert decode(Dola(), target.engine, [5, 6, 7]), "early exits use the same output layer"


def test_a_draft_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    other = tokenizer()
    other.add_tokens(["one more"])
    tiny_model("llama", vocab=VOCAB + 1).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    settings = RunConfig(model=str(saved("llama")), draft=str(tmp_path), device="cpu", dtype="float32")
    with pytest.raises(UserError, match="do not share a vocabulary"):
        load_draft(settings, load(settings.model), [Speculative()])
