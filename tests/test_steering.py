"""ControlNets of transformers: alike to diffusers' own pipelines, the laws, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
from test_transformers import FRAMES, PROMPT, SIZE, STEPS, cut, difference, noise

import zs2kit
from zs2kit import Model, Plugin
from zs2kit.control import Control
from zs2kit.domain import Domain
from zs2kit.errors import ModelError, PluginError, UsageError
from zs2kit.networks.base import Side
from zs2kit.networks.steering import Steered
from zs2kit.noise import MAX_DIVERGENCE
from zs2kit.testing import check_plugin, drawn_clip, edited_pixels, make_scan, tiny_models
from zs2kit_plugins.control import AnyControl
from zs2kit_plugins.depth import Depth
from zs2kit_plugins.edges import Edges
from zs2kit_plugins.instruct import Instruct
from zs2kit_plugins.mask import Mask
from zs2kit_plugins.pose import Pose
from zs2kit_plugins.strength import Strength

# Families -> their pipelines with ControlNets, what these are called with, and our guidance scale
PIPELINES: dict[str, tuple[str, dict[str, Any], float]] = {
    "flux-dev": ("FluxControlNetPipeline", {"guidance_scale": 3.0}, 3.0),
    "flux-schnell": ("FluxControlNetPipeline", {"guidance_scale": 3.5}, 1.0),
    "flux-kontext": ("FluxControlNetPipeline", {"guidance_scale": 3.0}, 3.0),
    "sd3": (
        "StableDiffusion3ControlNetPipeline",
        {"guidance_scale": 3.0, "negative_prompt": "blue"},
        3.0,
    ),
    "sd3.5": (
        "StableDiffusion3ControlNetPipeline",
        {"guidance_scale": 3.0, "negative_prompt": "blue"},
        3.0,
    ),
    "qwen-image": ("QwenImageControlNetPipeline", {"true_cfg_scale": 3.0, "negative_prompt": "blue"}, 3.0),
    "z-image": ("ZImageControlNetPipeline", {"guidance_scale": 3.0, "negative_prompt": "blue"}, 3.0),
}
QUICK = {"size": (32, 32), "num_inference_steps": 2}


@cache
def load(kind: str) -> Model:
    """A model whose VAE is certain of what it encodes: most of the pipelines draw the latents of maps."""
    model = Model.load(tiny_models()[kind])
    last = model.vae.quant_conv if kind.startswith("qwen") else model.vae.encoder.conv_out
    last.bias.data[len(last.bias) // 2 :] = -1e3
    return model


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    """A map that stands for all frames."""
    path = tmp_path_factory.mktemp("maps") / "map.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    return str(path)


def clip() -> zs2kit.Clip:
    return drawn_clip(FRAMES, width=SIZE[1], height=SIZE[0])


def pixels(model: Model, plugins: Any = (), **settings: Any) -> torch.Tensor:
    scan = make_scan(model, plugins, clip(), num_inference_steps=STEPS, size=SIZE, **settings)
    return edited_pixels(scan, cut(model))


def settings_of(kind: str) -> dict[str, Any]:
    _, how, scale = PIPELINES[kind]
    alone = {"momentum": 0, "divergence": MAX_DIVERGENCE, "guidance_scale": scale}
    return alone | {name: value for name, value in how.items() if name == "negative_prompt"}


def controlnet(kind: str, name: str) -> Any:
    cls = PIPELINES[kind][0].replace("Pipeline", "Model").replace("StableDiffusion3", "SD3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(diffusers, cls).from_pretrained(tiny_models()[kind] / f"controlnet_{name}").eval()


def maps_of(model: Model, plugin: Control) -> list[torch.Tensor]:
    """The map of each frame, (1, 3, height, width) in [-1, 1], as the pipelines make it of a picture."""
    (chunk,) = cut(model)
    plugin.load_detector(model, clip())
    maps = plugin.detect(chunk.images, chunk)
    return [torch.from_numpy(each).permute(2, 0, 1)[None] / 127.5 - 1 for each in maps]


def by_the_pipeline(kind: str, networks: Any, maps: list[Any], **further: Any) -> torch.Tensor:
    """What the family's own pipeline with ControlNets makes of the same noise, frame by frame."""
    model, (cls, how, _) = load(kind), PIPELINES[kind]
    pipeline = getattr(diffusers, cls)(**model.pipeline.components, controlnet=networks)
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for latents, image in zip(noise(model), maps, strict=True):
        latents = latents[None]
        made.append(
            pipeline(
                prompt=PROMPT,
                control_image=image,
                height=SIZE[0],
                width=SIZE[1],
                num_inference_steps=STEPS,
                latents=model.network._pack(latents) if kind.startswith(("flux", "qwen")) else latents,
                output_type="pt",
                **how,
                **further,
            ).images
        )
    return torch.cat(made)


@pytest.mark.parametrize("name", ["pose", "depth", "edges"])
@pytest.mark.parametrize("kind", PIPELINES)
def test_parity_with_the_pipeline(kind, name, picture):
    """Of several kinds of ControlNets: a union and one that takes pixels for FLUX.1, that of SD3.5 Large."""
    model = load(kind)
    plugins: dict[str, Control] = {
        "pose": AnyControl(model="controlnet_pose", maps=picture, scale=0.7),
        "depth": Depth(scale=0.7),
        "edges": Edges(scale=0.7),
    }
    plugin = plugins[name]
    mode = {"control_mode": 2} if kind.startswith("flux") and name == "depth" else {}
    maps = maps_of(model, plugin)
    theirs = by_the_pipeline(kind, controlnet(kind, name), maps, controlnet_conditioning_scale=0.7, **mode)
    ours = settings_of(kind)
    found = difference(pixels(model, [plugin], **ours), theirs)
    print(f"{kind}, {name}: largest difference {found:.1e}")
    assert found <= 1e-5
    assert difference(pixels(model, **ours), theirs) > 1e-3
    assert difference(pixels(model, [plugin], **{**ours, "momentum": 0.9}), theirs) > 1e-3


@pytest.mark.parametrize("kind", ["flux-dev", "sd3", "qwen-image"])
def test_the_steps_that_are_steered_are_those_of_the_pipeline(kind, picture):
    plugin = AnyControl(model="controlnet_pose", maps=picture, start=0.3, end=0.7)
    bounds = {"control_guidance_start": 0.3, "control_guidance_end": 0.7}
    theirs = by_the_pipeline(kind, controlnet(kind, "pose"), maps_of(load(kind), plugin), **bounds)
    ours = settings_of(kind)
    assert difference(pixels(load(kind), [plugin], **ours), theirs) <= 1e-5
    assert difference(pixels(load(kind), **ours), theirs) > 1e-3


@pytest.mark.parametrize("kind", ["flux-dev", "sd3"])
def test_two_add_up_as_in_the_pipeline(kind, picture):
    model, ours = load(kind), settings_of(kind)
    plugins = [
        AnyControl(model="controlnet_pose", maps=picture, scale=0.6),
        AnyControl(model="controlnet_pose", detector="canny", scale=0.9),
    ]
    maps = [[*each] for each in zip(*(maps_of(model, plugin) for plugin in plugins), strict=True)]
    networks = [controlnet(kind, "pose") for _ in plugins]
    theirs = by_the_pipeline(kind, networks, maps, controlnet_conditioning_scale=[0.6, 0.9])
    assert difference(pixels(model, plugins, **ours), theirs) <= 1e-5
    assert difference(pixels(model, plugins[:1], **ours), theirs) > 1e-3


@pytest.mark.parametrize("kind", ["flux-dev", "qwen-image", "z-image"])
def test_controlnets_of_different_kinds_add_up(kind, picture):
    """Of different numbers of layers, too: each alone has its effect on the result of both."""
    model, ours = load(kind), settings_of(kind)
    one, two = AnyControl(model="controlnet_pose", maps=picture), Edges()
    both = pixels(model, [one, two], **ours)
    assert torch.equal(pixels(model, [two, one], **ours), both)
    assert min(difference(pixels(model, [each], **ours), both) for each in (one, two)) > 1e-3


@pytest.mark.parametrize("kind", ["flux-dev", "sd3.5", "qwen-image", "z-image"])
def test_plugins_keep_the_laws(kind):
    """All three at once; also averages that are carried over, of which each network has its own."""
    plugins = [Pose(detector="puppets"), Depth(), Edges()]
    check_plugin(*plugins, model=tiny_models()[kind], **QUICK)


def test_a_shown_source_is_not_steered():
    """A ControlNet sees the picture that is drawn alone, and gives the shown one nothing."""
    model, network = load("flux-kontext"), controlnet("flux-kontext", "pose")
    tokens, width = 16, model.network.module.config.in_channels
    drawn, shown, maps = torch.randn(3, 1, tokens, width).unbind(0)
    ids = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(4), torch.arange(4), indexing="ij"), -1)
    call = {
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.0]),
        "pooled_projections": torch.randn(1, model.network.module.config.pooled_projection_dim),
        "encoder_hidden_states": torch.randn(1, 8, model.network.module.config.joint_attention_dim),
        "txt_ids": torch.zeros(8, 3),
        "return_dict": False,
    }
    both = {"hidden_states": torch.cat([drawn, shown], 1), "img_ids": ids.reshape(-1, 3).float()}
    seen: list[torch.Tensor] = []
    block = model.network.module.transformer_blocks[0]
    first = {"hidden_states": drawn, "img_ids": both["img_ids"][:tokens]}
    side = Side(network, {"controlnet_cond": maps}, torch.zeros(1), {})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        residuals, _ = network(controlnet_cond=maps, **first, **call)
        after = block.register_forward_hook(lambda _, __, output: seen.append(output[1]))
        before = model.network.module.single_transformer_blocks[0].register_forward_pre_hook(
            lambda _, __, given: seen.append(given["hidden_states"]), with_kwargs=True
        )
        try:
            Steered(model.network.module, [side], 3.0)(**both, **call)
        finally:
            after.remove()
            before.remove()
    added = seen[1] - seen[0]
    torch.testing.assert_close(added[:, :tokens], residuals[0], atol=1e-5, rtol=1e-5)
    assert not added[:, tokens:].any()


def test_controlnets_of_other_networks_are_passed_over():
    unets, pipeline = tiny_models()["epsilon"], load("flux-dev").pipeline
    folders = unets, tiny_models()["flux-dev"]
    assert Model(pipeline, folders=folders).bundled("controlnet_pose") == folders[1] / "controlnet_pose"
    assert Model(pipeline, folders=folders[:1]).bundled("controlnet_pose") is None
    assert Model(Model.load(unets).pipeline, folders=folders).bundled("controlnet_pose") is not None


def test_a_small_model_has_no_controlnets_but_its_own():
    domain = Domain("a model of squares", 30.0, None)
    model = Model(load("flux-dev").pipeline, "squares", domain=domain)
    assert refusal(model, Pose(detector="puppets")).startswith("squares has no ControlNet for pose; ")


def test_a_shown_source_and_a_controlnet_keep_the_laws():
    check_plugin(Instruct(), Pose(detector="puppets"), model=tiny_models()["flux-kontext"], **QUICK)


@pytest.mark.parametrize("plugin", [Pose, Depth, Edges, AnyControl])
def test_scale_0_is_no_plugin(plugin, picture):
    how = {"model": "controlnet_pose", "maps": picture} if plugin is AnyControl else {}
    assert torch.equal(pixels(load("z-image"), [plugin(scale=0, **how)]), pixels(load("z-image")))


def test_weights_are_shared_with_the_transformer_but_hooks_are_not():
    model = load("z-image")
    network = controlnet("z-image", "pose")
    model.network.adopt(network)
    ours, theirs = network.noise_refiner[0], model.network.module.noise_refiner[0]
    assert ours is not theirs and ours.attention.to_k is not theirs.attention.to_k
    assert ours.attention.to_k.weight is theirs.attention.to_k.weight


# FLUX.1's own ways: maps, or what stays of the source, as further channels


@pytest.mark.parametrize("plugin", [Pose(detector="puppets"), Depth(), Edges()])
def test_maps_as_channels_are_given_as_in_the_pipeline(plugin):
    model = load("flux-control")
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    theirs = torch.cat(
        [
            pipeline(
                prompt=PROMPT,
                control_image=image,
                height=SIZE[0],
                width=SIZE[1],
                num_inference_steps=STEPS,
                latents=model.network._pack(latents[None]),
                guidance_scale=3.0,
                output_type="pt",
            ).images
            for latents, image in zip(noise(model), maps_of(model, plugin), strict=True)
        ]
    )
    ours = {"momentum": 0, "divergence": MAX_DIVERGENCE, "guidance_scale": 3.0}
    found = difference(pixels(model, [plugin], **ours), theirs)
    print(f"{type(plugin).__name__}: largest difference {found:.1e}")
    assert found <= 1e-5
    other = Edges() if isinstance(plugin, Depth) else Depth()
    assert difference(pixels(model, [other], **ours), theirs) > 1e-3
    assert difference(pixels(model, [plugin], **{**ours, "momentum": 0.9}), theirs) > 1e-3


def test_what_is_filled_is_drawn_as_in_the_pipeline(picture):
    """The mask is given pixel by pixel, so its edges may lie anywhere."""
    model = load("flux-fill")
    mask = np.zeros(SIZE, np.uint8)
    mask[9:50, 13:61] = 255
    plugin = Mask(clip=str(Path(picture).with_name("mask.png")), grow=0, feather=0)
    cv2.imwrite(plugin.clip, mask)
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    (chunk,) = cut(model)
    theirs = torch.cat(
        [
            pipeline(
                prompt=PROMPT,
                image=source[None] / 2 + 0.5,
                mask_image=torch.from_numpy(mask / 255).float()[None, None],
                height=SIZE[0],
                width=SIZE[1],
                num_inference_steps=STEPS,
                latents=model.network._pack(latents[None]),
                guidance_scale=3.0,
                output_type="pt",
            ).images
            for latents, source in zip(noise(model), chunk.pixels, strict=True)
        ]
    )
    ours = {"momentum": 0, "divergence": MAX_DIVERGENCE, "guidance_scale": 3.0}
    found = difference(pixels(model, [plugin], **ours), theirs)
    print(f"largest difference {found:.1e}")
    assert found <= 1e-5
    assert difference(pixels(model, [replace(plugin, invert=True)], **ours), theirs) > 1e-3
    assert difference(pixels(model, [], **ours), theirs) > 1e-3


def test_channels_keep_the_laws(tmp_path):
    check_plugin(Depth(), Strength(0.7), model=tiny_models()["flux-control"], num_inference_steps=3)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 12:28] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    check_plugin(Mask(clip=str(tmp_path / "mask.png")), model=tiny_models()["flux-fill"], **QUICK)


@pytest.mark.parametrize("options", [{"scale": 0.5}, {"start": 0.2}, {"end": 0.8}, {"model": "controlnet"}])
def test_options_of_controlnets_have_no_effect_on_channels(options):
    (name,) = options
    assert f"`depth.{name}` has no effect" in refusal(load("flux-control"), Depth(**options))


def test_a_model_for_maps_needs_one():
    model = load("flux-control")
    for plugins in ((), [Strength()], [Depth(), Edges()], [Depth(scale=0)]):
        with pytest.raises(PluginError, match=r"takes 8 channels.*use it with one of depth, edges"):
            pixels(model, plugins)
    assert "instruct needs an Instruct-Pix2Pix model" in refusal(model, Instruct())
    with pytest.warns(UserWarning, match="so strength is used"):
        zs2kit.edit(drawn_clip(1), PROMPT, model=model)


# Bad input is one line, before any weights are read.


def refusal(model: Model, plugin: Plugin) -> str:
    with pytest.raises((ModelError, UsageError)) as error:
        zs2kit.edit(drawn_clip(2), PROMPT, model=model, plugins=[plugin])
    assert "\n" not in str(error.value)
    return str(error.value)


def config_alone(tmp_path: Path, kind: str, name: str = "pose", **entries: Any) -> str:
    """A ControlNet's folder without weights, whose config says something else."""
    source = tiny_models()[kind] / f"controlnet_{name}" / "config.json"
    (tmp_path / "config.json").write_text(json.dumps(json.loads(source.read_text()) | entries))
    return str(tmp_path)


@pytest.mark.parametrize("plugin", [Pose, Depth, Edges])
def test_a_controlnet_of_another_family_is_refused_by_its_config_alone(plugin, tmp_path):
    model, epsilon = load("flux-dev"), Model.load(tiny_models()["epsilon"])
    of_sd3 = config_alone(tmp_path, "sd3")
    assert "is a SD3ControlNetModel; give a ControlNet (a FluxControlNetModel" in refusal(
        model, plugin(of_sd3)
    )
    assert "is a SD3ControlNetModel; give a ControlNet (a ControlNetModel" in refusal(epsilon, plugin(of_sd3))
    wider = config_alone(tmp_path, "flux-dev", num_attention_heads=24)
    assert "made for another family of models than" in refusal(model, plugin(wider))
    assert "(num_attention_heads 24, not 2)" in refusal(model, plugin(wider))


@pytest.mark.parametrize(
    ("kind", "entry"), [("sd3", "extra_conditioning_channels"), ("qwen-image", "extra_condition_channels")]
)
def test_a_controlnet_for_inpainting_is_refused(kind, entry, tmp_path):
    folder = config_alone(tmp_path, kind, **{entry: 1})
    assert "is for inpainting; choose a ControlNet that takes maps alone" in refusal(
        load(kind), Edges(folder)
    )


def test_a_union_must_know_the_kind_of_maps(picture, tmp_path):
    model, union = load("flux-dev"), config_alone(tmp_path, "flux-dev", "depth")
    unknown = AnyControl(model=union, detector="canny")
    assert "takes 5 kinds of maps" in refusal(model, unknown) and "control.mode" in refusal(model, unknown)
    assert "takes 5 kinds of maps" in refusal(model, AnyControl(model=union, detector="canny", mode=5))
    plain = AnyControl(model="controlnet_pose", detector="canny", mode=1)
    assert "`control.mode` has no effect" in refusal(model, plain)


def test_a_family_without_controlnets_says_so():
    assert "takes no ControlNet, and pose needs one; use a model of" in refusal(load("flux2-klein"), Pose())


def test_a_single_file_is_refused(tmp_path):
    file = tmp_path / "pose.safetensors"
    shutil.copy(tiny_models()["sd3"] / "controlnet_pose" / "diffusion_pytorch_model.safetensors", file)
    assert "can't be loaded from a single file" in refusal(load("sd3"), Pose(model=str(file)))


def test_defaults_are_named_where_there_are_some(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for kind, default in {
        "flux-dev": "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0",
        "qwen-image": "InstantX/Qwen-Image-ControlNet-Union",
        "sd3": "has no default ControlNet for models like",
    }.items():
        model = Model.load(tiny_models()[kind])
        model.folders = ()  # or it would use its own
        assert default in refusal(model, Edges())
