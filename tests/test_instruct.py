"""The instruct plugin: what diffusers' own pipeline makes of a source and an instruction."""

from __future__ import annotations

from contextlib import nullcontext

import diffusers
import pytest
import torch

import zs2kit
from zs2kit import Model
from zs2kit.control import Control
from zs2kit.errors import ModelError, UsageError
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.plugins import default_model
from zs2kit.schedule import SCHEDULERS, make_scheduler
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan, tiny_model
from zs2kit_plugins.instruct import Instruct

SAME = 1e-4  # of decoded frames in [0, 1], float32
FRAMES = 3
EIGHT = {"in_channels": 8, "out_channels": 4}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def editor(request, tmp_path_factory):
    """A tiny Instruct-Pix2Pix model."""
    return Model.load(tiny_model(tmp_path_factory.mktemp("editor"), request.param, unet=EIGHT))


def pixels(model, plugins=(), sizes=(FRAMES,), *, carried=True, **settings):
    scan = make_scan(model, plugins, prompt="make it red", **settings)
    return edited_pixels(scan, chunks(drawn_clip(sum(sizes)), sizes, model), carried=carried)


def difference(a, b):
    return (a - b).abs().max().item()


def theirs(model, cls, scheduler="ddim", **settings):
    """Frame by frame, what diffusers' own pipeline makes of the same noise."""
    components = model.pipeline.components | {
        "scheduler": make_scheduler(scheduler, model.pipeline.scheduler.config, 8)
    }
    if cls is diffusers.StableDiffusionXLInstructPix2PixPipeline:  # it takes no image encoder
        pipeline = cls(**{name: part for name, part in components.items() if part is not None})
    else:
        pipeline = cls(**components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    noise = dependency_noise(model.latent_shape(32, 32), range(FRAMES), MAX_DIVERGENCE, 0)
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], model)
    pictures = (chunk.pixels + 1) / 2
    return torch.cat(
        [
            pipeline(
                "make it red",
                image=pictures[index : index + 1],
                latents=noise[index : index + 1],
                num_inference_steps=8,
                output_type="pt",
                **settings,
            ).images
            for index in range(FRAMES)
        ]
    )


@pytest.mark.parametrize(
    ("scheduler", "text", "image"),
    # LCM is left out: its pipeline draws noise of its own.
    [(name, 7.5, 1.5) for name in SCHEDULERS if name != "lcm"]
    # Branches of no weight are not computed: the last at 1, the middle one where both are equal.
    + [("ddim", 5.0, 1.0), ("ddim", 3.0, 3.0)]
    # No guidance, not even by the image
    + [("ddim", 1.0, 1.0), ("ddim", 1.0, 1.5), ("ddim", 0.0, 1.5)],
)
def test_parity_with_the_diffusers_pipeline(editor, scheduler, text, image):
    negative = "a cat" if text > 1 else ""
    with pytest.warns(match="no guidance") if text <= 1 < image else nullcontext():
        ours = pixels(
            editor,
            [Instruct(image_guidance_scale=image)],
            momentum=0,
            divergence=MAX_DIVERGENCE,
            scheduler=scheduler,
            guidance_scale=text,
            negative_prompt=negative,
        )
    reference = theirs(
        editor,
        diffusers.StableDiffusionInstructPix2PixPipeline,
        scheduler,
        guidance_scale=text,
        image_guidance_scale=image,
        negative_prompt=negative,
    )
    worst = difference(ours, reference)
    kind = editor.pipeline.scheduler.config["prediction_type"]
    print(f"largest difference, {kind}, {scheduler}, text {text}, image {image}: {worst:.1e}")
    assert worst <= 1e-3


def test_parity_with_the_diffusers_pipeline_of_sdxl(tmp_path):
    model = Model.load(tiny_model(tmp_path / "xl", unet=EIGHT, sdxl=True))
    ours = pixels(model, [Instruct()], momentum=0, divergence=MAX_DIVERGENCE, negative_prompt="a cat")
    reference = theirs(
        model,
        diffusers.StableDiffusionXLInstructPix2PixPipeline,
        guidance_scale=5.0,
        image_guidance_scale=1.5,
        negative_prompt="a cat",
    )
    print(f"largest difference, SDXL: {difference(ours, reference):.1e}")
    assert difference(ours, reference) <= 1e-3


def test_parity_would_notice_another_scale_and_scaled_latents(editor, monkeypatch):
    settings = {"momentum": 0, "divergence": MAX_DIVERGENCE}
    right = pixels(editor, [Instruct()], **settings)
    assert difference(pixels(editor, [Instruct(image_guidance_scale=2.0)], **settings), right) > 1e-2
    encode, factor = editor.encode, editor.vae.config.scaling_factor
    monkeypatch.setattr(editor, "encode", lambda pixels: factor * encode(pixels))
    assert difference(pixels(editor, [Instruct()], **settings), right) > 1e-2


def test_chunk_size_does_not_matter(editor):
    whole = pixels(editor, [Instruct()])
    assert difference(pixels(editor, [Instruct()], [1, 2]), whole) <= SAME
    assert difference(pixels(editor, [Instruct()], [1, 2], carried=False), whole) > 10 * SAME


def test_a_controlnet_steers_it_too(editor, tmp_path):
    """ControlNets see the latents alone, without the source's."""
    controlnet = tiny_model(tmp_path / "base") / "controlnet_pose"

    class Picture(Control):
        def controlnet(self, model):
            return controlnet

        def detect(self, images, *_):
            return images

    whole = pixels(editor, [Instruct(), Picture()])
    assert difference(pixels(editor, [Picture(), Instruct()], [1, 2]), whole) <= SAME
    assert difference(pixels(editor, [Instruct()]), whole) > 10 * SAME
    assert torch.equal(pixels(editor, [Instruct(), Picture(scale=0)]), pixels(editor, [Instruct()]))


def test_it_asks_for_a_model_of_its_own():
    assert default_model([Instruct()]) == "puppets-instruct"


@pytest.mark.parametrize("channels", [4, 9])
def test_a_unet_of_other_channels_is_refused_before_any_work(tmp_path, channels):
    folder = tiny_model(tmp_path / "other", unet={"in_channels": channels, "out_channels": 4})
    with pytest.raises(ModelError) as error:
        zs2kit.edit(drawn_clip(1), "make it red", model=folder, plugins=[Instruct()])
    assert "\n" not in str(error.value)
    assert "which takes the source as further channels, but" in str(error.value)
    assert "doesn't; use puppets-instruct" in str(error.value)


def test_guidance_by_the_image_is_one_at_least(editor):
    with pytest.raises(UsageError, match="image_guidance_scale"):
        zs2kit.edit(drawn_clip(1), "make it red", model=editor, plugins=[Instruct(image_guidance_scale=0.5)])
