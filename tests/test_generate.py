"""Text to video: `zs2kit.generate`."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import guidance
from zs2kit.guidance import positions
from zs2kit.noise import MAX_DIVERGENCE, make_noise
from zs2kit.schedule import Step
from zs2kit.settings import Settings
from zs2kit.testing import chunks, drawn_clip
from zs2kit_plugins.mask import Mask
from zs2kit_plugins.strength import Strength

QUICK = {"num_inference_steps": 4, "size": (32, 32)}


def pictures(*args, **settings) -> np.ndarray:
    return np.stack([frame.image for frame in zs2kit.generate(*args, **(QUICK | settings))])


def test_a_clip_has_the_frames_the_rate_and_the_size_that_were_asked_for(tiny) -> None:
    clip = zs2kit.generate("a red robot", model=tiny, frames=5, rate=30000 / 1001, size=(37, 50))
    assert (clip.rate, clip.time_base, clip.frame_count) == (Fraction(30000, 1001), Fraction(1001, 30000), 5)
    frames = list(clip)
    assert [frame.pts for frame in frames] == [0, 1, 2, 3, 4]
    assert {frame.image.shape for frame in frames} == {(37, 50, 3)}


def test_a_generated_clip_is_written_without_sound(tiny, tmp_path: Path) -> None:
    clip = zs2kit.generate("a red robot", model=tiny, frames=3, rate=24, **QUICK)
    written = zs2kit.read(zs2kit.write(tmp_path / "out.mp4", clip))
    assert written.silent and written.rate == 24 and len(list(written)) == 3


def test_chunks_do_not_show(tiny) -> None:
    whole = pictures("a red robot", model=tiny, frames=5, chunk_size=5).astype(int)
    for size in (1, 2, 3):
        cut = pictures("a red robot", model=tiny, frames=5, chunk_size=size)
        assert np.abs(cut - whole).max() <= 1
    again = pictures("a red robot", model=tiny, frames=5, chunk_size=5, seed=1)
    assert np.abs(again - whole).max() > 10


@pytest.mark.parametrize("noise", ["independent", "shared"])
def test_frames_are_those_of_the_diffusers_pipeline(tiny, noise: str) -> None:
    """Without momentum, each is what StableDiffusionPipeline draws of its noise."""
    settings = {"momentum": 0.0, "guidance_scale": 5.0, "noise": noise, "num_inference_steps": 8}
    ours = pictures("a red robot", model=tiny, frames=2, **settings)
    latents, _ = make_noise(noise, tiny.latent_shape(32, 32), range(2), MAX_DIVERGENCE, seed=0)
    pipeline = tiny.pipeline
    pipeline.set_progress_bar_config(disable=True)
    from zs2kit.schedule import make_scheduler

    before = pipeline.scheduler
    pipeline.scheduler = make_scheduler("ddim", tiny.pipeline.scheduler.config, 8)
    try:
        theirs = pipeline(
            ["a red robot"] * 2,
            latents=latents,
            num_inference_steps=8,
            guidance_scale=5.0,
            height=32,
            width=32,
            output_type="np",
        ).images
    finally:
        pipeline.scheduler = before
    assert np.abs(ours - theirs * 255).max() <= 0.51
    assert noise == "shared" or np.abs(ours[0].astype(int) - ours[1]).max() > 10


def test_prompts_along_the_clip(tiny) -> None:
    """Each holds at its frame as if it were alone; in between there is some of both."""
    settings = {"model": tiny, "frames": 5, "momentum": 0.0, "noise": "shared", "guidance_scale": 9.0}
    first, last = (pictures(prompt, **settings).astype(int) for prompt in ("a red robot", "in space"))
    both = pictures({0: "a red robot", 3: "in space"}, **settings)
    assert np.abs(first - last).max() > 10
    for index, alone in ((0, first), (3, last), (4, last)):
        assert np.abs(both[index] - alone[index]).max() <= 1
    assert np.abs(both[1] - last[1]).max() > 1 and np.abs(both[2] - first[2]).max() > 1
    cut = pictures({0: "a red robot", 3: "in space"}, **settings, chunk_size=2)
    assert np.abs(cut.astype(int) - both).max() <= 1


def test_prompts_along_a_clip_that_is_edited(tiny) -> None:
    settings = {
        "plugins": (),
        "model": tiny,
        "num_inference_steps": 2,
        "momentum": 0.0,
        "guidance_scale": 9.0,
    }
    changing = list(zs2kit.edit(drawn_clip(3), {0: "a red robot", 2: "in space"}, **settings))
    plain = list(zs2kit.edit(drawn_clip(3), "a red robot", **settings))
    same = [np.array_equal(a.image, b.image) for a, b in zip(changing, plain, strict=True)]
    assert same == [True, False, False]


def test_positions_among_prompts() -> None:
    assert positions([0, 4, 6], range(2, 9)).tolist() == [0.5, 0.75, 1, 1.5, 2, 2, 2]


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_each_call_between_two_prompts_gets_one_of_them(kind: str, tiny_folders: dict[str, Path]) -> None:
    """The nearer a frame is to the next prompt, the more of the last steps have it; at a prompt, all."""
    model = zs2kit.Model.load(tiny_folders[kind])
    prompts = {0: "a cat", 4: "a dog", 6: "a hen"}
    settings = Settings(prompt=prompts, num_inference_steps=4, guidance_scale=3.0)
    (chunk,) = chunks(drawn_clip(8), [8], model)
    *_, branch = guidance.classifier_free(model, settings, chunk)
    embedded = [model.embed(prompt, "", 32, 32)[0] for prompt in prompts.values()]
    expected = ["00001122", "00011122", "00111222", "01111222"]
    for index, row in enumerate(expected):
        step = branch.at(Step(index, torch.tensor(0), len(expected)))
        for frame, prompt in enumerate(map(int, row)):
            assert torch.equal(step.prompt_embeds[frame], embedded[prompt].prompt_embeds[0])
            for name, value in embedded[prompt].conditions.items():
                assert torch.equal(step.conditions[name][frame], value[0])
    assert (branch.name, branch.weight) == (step.name, step.weight) == ("text", 3.0)


def test_a_longer_clip_begins_like_a_shorter_one(tiny) -> None:
    short, long = (pictures("a red robot", model=tiny, frames=n, chunk_size=2) for n in (2, 4))
    assert np.array_equal(short, long[:2])
    assert all(not np.array_equal(a, b) for a, b in pairwise(long))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"frames": 0}, "`frames` must be a whole number from 1 up"),
        ({"frames": -3}, "`frames` must be a whole number from 1 up"),
        ({"frames": 2.5}, "`frames` must be a whole number from 1 up"),
        ({"rate": 0}, "`rate` must be at least 1/1001"),
        ({"rate": 0.0001}, "`rate` must be at least 1/1001"),
        ({"rate": float("nan")}, "`rate` must be at least 1/1001"),
        ({"size": (0, 32)}, "`size` must be a size such as 512x288"),
        ({"noise": "pink"}, "`noise` must be one of dependency"),
        ({"prompt": {0: "a", 9: "b"}, "frames": 9}, "the prompt at frame 9 comes after the end"),
        ({"prompt": {2: "a"}}, "the first at 0"),
        ({"prompt": {}}, "the first at 0"),
        (
            {"plugins": [Strength()]},
            "plugin 'strength' looks at the source's frames, but a clip made from text alone has none",
        ),
        ({"plugins": [Mask(clip="no.mp4")]}, "no.mp4"),
    ],
)
def test_what_makes_no_clip_is_said_in_a_line(tiny, wrong, words: str) -> None:
    with pytest.raises(zs2kit.Zs2Error) as error:
        list(zs2kit.generate(**({"prompt": "a red robot", "model": tiny} | QUICK | wrong)))
    assert words in str(error.value) and "\n" not in str(error.value)
