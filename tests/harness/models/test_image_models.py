"""Models that read images: which classes load, how prompts get their images, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from harness.engine.images import ImageToken
from harness.errors import UserError
from harness.models.images import ImageReader, check_class, same_words, why_not
from harness.models.loading import Model, load
from harness.models.prompts import encode, pictures, rendered
from harness.plugins.image_rows import image_file, with_image
from harness.plugins.task import Example
from tests import pair
from tests.vision import COUNT, SIDE, saved, task_file, tokenizer

TEMPLATE = ("{% for message in messages %}{{ message.role }}: {% for part in message.content %}"
            "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}|{% endfor %}")


@pytest.fixture
def model() -> Model:
    return load(str(saved()))


def copied(folder: Path) -> None:
    for file in saved().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize(("config", "reason"), [
    (transformers.PaliGemmaConfig(), r"\(paligemma\) lets the tokens of an image attend to later ones"),
    (transformers.Qwen2VLConfig(), r"\(qwen2_vl\) gives the tokens of an image positions in space"),
    (transformers.LlavaNextConfig(), r"\(llava_next\) gives images to its layers in a way"),
    (transformers.LlavaConfig(vision_config=transformers.PixtralVisionConfig()), "vision tower of the kind 'pixtral'"),
], ids=["paligemma", "qwen", "llava_next", "pixtral"])
def test_other_classes_are_refused_with_the_reason(config: Any, reason: str) -> None:
    with pytest.raises(UserError, match=f"^name .*{reason}.*give a model of the class Llava"):
        check_class("name", config)


def test_a_class_that_also_reads_text_stays_a_model_for_text() -> None:
    config = transformers.Gemma3Config()
    check_class("name", config)
    assert "(gemma3) lets the tokens of an image attend to later ones" in why_not("name", config)


def test_a_model_without_what_images_need(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no image processor that can be loaded"):
        load(str(saved(processor=False)))
    copied(tmp_path)
    pair.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no special token 259, which its configuration names as the placeholder"):
        load(str(tmp_path))


def test_a_loaded_model_knows_how_it_reads_images(model: Model, tmp_path: Path) -> None:
    task_file(tmp_path, [])
    images = tuple(image_file(tmp_path / f"{number}.png") for number in (0, 1))
    seen = pictures(model, Example("one", ("",), images=images))
    assert [one.load().shape for one in seen] == [(1, 3, SIDE, SIDE)] * 2
    assert not (seen[0].load() == seen[1].load()).all()
    tokens = encode(model, "<image>ab<image>c<image>", seen)
    assert len(tokens) == 2 * COUNT + 4
    assert [token.picture for token in tokens if isinstance(token, ImageToken)] == [
        one for one in seen for _ in range(COUNT)]
    assert not isinstance(tokens[-1], ImageToken)  # there is no third image
    assert model.engine.encodings == model.engine.forwards == 0
    with pytest.raises(UserError, match="nano-draft reads text only"):
        pictures(load("nano-draft"), Example("one", ("",), images=images))


def test_another_image_processor_is_another_model(model: Model, tmp_path: Path) -> None:
    copied(tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    other = load(str(tmp_path))
    assert other.fingerprint == model.fingerprint
    assert other.text_identity != model.text_identity


def test_places_of_images() -> None:
    assert with_image("Who?") == "<image>\nWho?"
    assert with_image("Who is <image>?") == "Who is <image>?"
    assert with_image(["One", "Two"]) == ["<image>\nOne", "Two"]
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    assert with_image(chat) == [chat[0], {"role": "user", "content": "<image>\nWho?"}]


def test_chat_templates_with_typed_content(model: Model) -> None:
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "<image>\nWho?"}]
    model.tokenizer.chat_template = TEMPLATE
    assert rendered(model, chat) == "system: Be short.|user: <image>\nWho?|"
    model.tokenizer.chat_template = "{% for one in messages %}{{ one.role }}: {{ one.content }}|{% endfor %}"
    assert rendered(model, chat) == "system: Be short.|user: <image>\nWho?|"


def test_a_placeholder_of_another_name(model: Model) -> None:
    reader = model.images
    assert isinstance(reader, ImageReader)
    assert reader.marker == "<image>"
    assert [type(token) for token in reader.placed([5, 259], [])] == [int, int]


def test_a_draft_model_may_lack_special_tokens_only() -> None:
    target, draft = tokenizer(), pair.tokenizer()
    assert same_words(target, draft, frozenset({2}))
    assert not same_words(target, draft, frozenset({259}))  # with which answers end
    assert not same_words(draft, target, frozenset())
    target.add_tokens(["word"])
    assert not same_words(target, draft, frozenset())
