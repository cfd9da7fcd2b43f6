"""Inpainting checkpoints: sampled as their pipelines do, by the mask plugin and by any other that keeps."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import zs2kit
from zs2kit import Model, Plugin, hookimpl
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.testing import check_plugin, chunks, drawn_clip, edited_pixels, make_scan, tiny_model, tiny_models
from zs2kit_plugins.mask import Mask
from zs2kit_plugins.pose import Pose
from zs2kit_plugins.strength import Strength

FRAMES, STEPS = 2, 6
NINE = {"in_channels": 9, "out_channels": 4}


@pytest.fixture(scope="module", params=[False, True], ids=["sd", "sdxl"])
def model(request, tmp_path_factory) -> Model:
    return Model.load(tiny_model(tmp_path_factory.mktemp("nine"), unet=NINE, sdxl=request.param))


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A mask whose edges lie between latents, so that each way to scale it down gives the same."""
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 12:28] = 255
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    Image.fromarray(mask).save(path)
    return path


def ours(model: Model, plugins, frames: int = FRAMES, **settings) -> torch.Tensor:
    """Frame by frame what stands alone, as in a pipeline."""
    plain = {"momentum": 0, "divergence": MAX_DIVERGENCE, "num_inference_steps": STEPS}
    scan = make_scan(model, plugins, drawn_clip(frames), **{**plain, **settings})
    return edited_pixels(scan, chunks(drawn_clip(frames), [frames], model))


def theirs(model: Model, drawn: np.ndarray) -> torch.Tensor:
    """The same frames by diffusers' inpainting pipeline; ``drawn`` is what it draws, (height, width)."""
    xl = hasattr(model.pipeline, "text_encoder_2")
    cls = diffusers.StableDiffusionXLInpaintPipeline if xl else diffusers.StableDiffusionInpaintPipeline
    names = cls.__init__.__annotations__
    parts = {name: part for name, part in model.pipeline.components.items() if name in names}
    pipeline = cls(**parts) if xl else cls(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], model)
    noise = dependency_noise(model.latent_shape(32, 32), range(FRAMES), MAX_DIVERGENCE, 0)
    stays = 1 - torch.from_numpy(drawn).float()
    frames = []
    for source, latents in zip(chunk.pixels, noise, strict=True):
        hidden = model.encode((source * stays)[None])
        frames += pipeline(
            "a red robot",
            image=source[None] / 2 + 0.5,
            mask_image=torch.from_numpy(drawn).float()[None, None],
            masked_image_latents=hidden,  # by its posterior's mode, where the pipeline would draw
            latents=latents[None],
            height=32,
            width=32,
            strength=1.0,
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            output_type="pt",
        ).images
    return torch.stack(frames)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def test_it_draws_what_its_pipeline_draws(model, picture):
    mask = np.asarray(Image.open(picture)) > 127
    plugin = Mask(clip=str(picture), grow=0, feather=0)
    worst = difference(ours(model, [plugin]), theirs(model, mask))
    print(f"largest difference from the pipeline: {worst:.1e}")
    assert worst <= 1e-3
    assert difference(ours(model, [replace(plugin, invert=True)]), theirs(model, mask)) > 1e-2


def test_it_loads_as_its_folder_calls_it(model, tmp_path):
    xl = hasattr(model.pipeline, "text_encoder_2")
    folder = shutil.copytree(model.folders[0], tmp_path / "own")
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = f"StableDiffusion{'XL' * xl}InpaintPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert torch.equal(ours(Model.load(folder), [Left()]), ours(model, [Left()]))


def test_without_a_mask_all_is_drawn(model):
    assert difference(ours(model, []), theirs(model, np.ones((32, 32), bool))) <= 1e-3
    assert len(list(zs2kit.generate("a", frames=2, model=model, num_inference_steps=1))) == 2
    noted = []
    edited = zs2kit.edit(drawn_clip(1), "a", model=model, num_inference_steps=2, notices=noted.append)
    assert len(list(edited)) == 1 and [each.kind for each in noted] == ["default-plugin"]


def test_the_mask_keeps_the_laws_with_it(model, picture):
    check_plugin(Mask(clip=str(picture)), model=model)


def test_it_goes_with_others(model, picture):
    plugins = [Mask(clip=str(picture)), Pose(), Strength(strength=0.8)]
    whole = ours(model, plugins)
    for index in range(len(plugins)):
        assert difference(whole, ours(model, plugins[:index] + plugins[index + 1 :])) > 1e-3


@dataclass(eq=False)
class Left(Plugin):
    """Keeps the left half."""

    @hookimpl
    def keep(self, chunk):
        mask = np.zeros((chunk.length, *chunk.fit.source), np.float32)
        mask[:, :, :16] = 1
        return mask


def test_whatever_keeps_counts(model):
    right = np.zeros((32, 32), bool)
    right[:, 16:] = True
    assert difference(ours(model, [Left()]), theirs(model, right)) <= 1e-3


def test_other_channels_say_what_they_are_for(tmp_path):
    odd = Model.load(tiny_model(tmp_path / "odd", unet={"in_channels": 5, "out_channels": 4}))
    for model, remedy in (
        (Model.load(tiny_models()["instruct"]), "use it with instruct"),
        (odd, "another model"),
    ):
        with pytest.raises(zs2kit.errors.PluginError, match=rf"takes \d channels, not 4; .*{remedy}"):
            list(zs2kit.edit(drawn_clip(1), "a", plugins=[Pose()], model=model, num_inference_steps=1))
