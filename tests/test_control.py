"""Depth, edges and any other control: alike to diffusers' pipelines, and bad input said before any work."""

from __future__ import annotations

import json
import re
import shutil
from fractions import Fraction

import cv2
import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from test_specialised import UNET, renamed, unet_name

import zs2kit
from zs2kit.cli import main
from zs2kit.errors import ClipError, ModelError, UsageError
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.schedule import make_scheduler
from zs2kit.testing import check_plugin, chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.control import AnyControl
from zs2kit_plugins.depth import Depth
from zs2kit_plugins.edges import Edges
from zs2kit_plugins.pose import Pose

FRAMES = 3
STEPS = 6


@pytest.fixture(scope="module")
def folder(tiny_folders):
    return tiny_folders["epsilon"]


@pytest.fixture(scope="module")
def model(folder):
    return zs2kit.Model.load(folder)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A map that stands for all frames."""
    path = tmp_path_factory.mktemp("maps") / "map.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A clip of maps, one brighter than the other."""
    images = [np.full((32, 32, 3), 20 * index, np.uint8) for index in range(12)]
    path = tmp_path_factory.mktemp("maps") / "maps.mp4"
    return zs2kit.write(path, zs2kit.Clip.from_images(images, Fraction(12)))


def pixels(model, plugins, sizes=(FRAMES,), **settings) -> torch.Tensor:
    """Frame by frame what stands alone: neither noise nor attention ties frames together."""
    plain = {"momentum": 0, "divergence": MAX_DIVERGENCE, "num_inference_steps": STEPS}
    scan = make_scan(model, plugins, drawn_clip(FRAMES), **(plain | settings))
    return edited_pixels(scan, chunks(drawn_clip(FRAMES), sizes, model))


def reference(model, controlnets, maps, **settings) -> torch.Tensor:
    """What diffusers' own ControlNet pipeline makes of the same noise, frame by frame."""
    components = {name: part for name, part in model.pipeline.components.items() if name != "image_encoder"}
    components["scheduler"] = make_scheduler("ddim", model.pipeline.scheduler.config, STEPS)
    loaded = [diffusers.ControlNetModel.from_pretrained(each) for each in controlnets]
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        **components, requires_safety_checker=False, controlnet=loaded if len(loaded) > 1 else loaded[0]
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = dependency_noise(model.latent_shape(32, 32), range(FRAMES), MAX_DIVERGENCE, 0)
    made = []
    for index in range(FRAMES):
        images = [torch.from_numpy(each[index]).permute(2, 0, 1)[None] / 255 for each in maps]
        made.append(
            pipeline(
                "a red robot",
                image=images if len(images) > 1 else images[0],
                num_inference_steps=STEPS,
                guidance_scale=5.0,
                latents=noise[index : index + 1],
                output_type="pt",
                height=32,
                width=32,
                **settings,
            ).images
        )
    return torch.cat(made)


def maps_of(model, plugin) -> np.ndarray:
    """The maps that a plugin makes of the drawn clip."""
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], model)
    plugin.load_detector(model, drawn_clip(FRAMES))
    return plugin.detect(chunk.images, chunk)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


# Neutral is neutral.


def test_depth_and_edges_together_are_diffusers_multi_controlnet(model, folder):
    ours = pixels(model, [Depth(scale=0.6), Edges(scale=0.9)])
    theirs = reference(
        model,
        [folder / "controlnet_depth", folder / "controlnet_edges"],
        [maps_of(model, Depth()), maps_of(model, Edges())],
        controlnet_conditioning_scale=[0.6, 0.9],
    )
    worst = difference(ours, theirs)
    print(f"largest difference, depth and edges: {worst:.1e}")
    assert worst <= 1e-3
    assert difference(pixels(model, [Depth(scale=0.6)]), theirs) > 1e-2
    assert difference(pixels(model, [Edges(scale=0.9)]), theirs) > 1e-2


def test_a_controlnet_that_sums_up_steers_as_in_its_pipeline(model, folder, picture, tmp_path):
    """As that of shuffle does: its residuals are averages, and only the prompted branch gets them."""
    shutil.copytree(folder / "controlnet_pose", tmp_path / "pooled")
    config = json.loads((tmp_path / "pooled" / "config.json").read_text())
    (tmp_path / "pooled" / "config.json").write_text(json.dumps(config | {"global_pool_conditions": True}))
    plugin = AnyControl(model=str(tmp_path / "pooled"), maps=str(picture))
    theirs = reference(model, [tmp_path / "pooled"], [maps_of(model, plugin)])
    worst = difference(pixels(model, [plugin]), theirs)
    print(f"largest difference, pooled: {worst:.1e}")
    assert worst <= 1e-3
    plain = AnyControl(model=str(folder / "controlnet_pose"), maps=str(picture))
    assert difference(pixels(model, [plain]), theirs) > 1e-2


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_half_precision_runs(tiny_folders, kind):
    half = zs2kit.Model.load(tiny_folders[kind], dtype="bfloat16")
    steered = pixels(half, [Depth(), Edges()])
    assert steered.isfinite().all() and difference(steered, pixels(half, [])) > 1e-2


# Two of one plugin.


def test_two_of_one_plugin_add_up(model, folder, picture, video):
    first = AnyControl(model="controlnet_edges", detector="canny", scale=0.7)
    second = AnyControl(model="controlnet_pose", maps=str(picture))
    ours = pixels(model, [first, second])
    networks = [folder / "controlnet_edges", folder / "controlnet_pose"]
    maps = [maps_of(model, first), maps_of(model, second)]
    theirs = reference(model, networks, maps, controlnet_conditioning_scale=[0.7, 1.0])
    assert difference(ours, theirs) <= 1e-3
    assert difference(pixels(model, [first]), theirs) > 1e-2


def test_two_of_one_plugin_keep_the_laws(picture):
    """Also averages that are carried over, of which each network has its own."""
    check_plugin(
        AnyControl(model="controlnet_edges", detector="canny"),
        AnyControl(model="controlnet_pose", maps=str(picture)),
    )


def test_two_of_one_plugin_on_the_command_line(model, folder, picture, tmp_path):
    clip, out = zs2kit.write(tmp_path / "clip.mkv", drawn_clip(2), codec="ffv1"), tmp_path / "out.mkv"
    arguments = [
        "edit",
        str(clip),
        "--model",
        str(folder),
        "--prompt",
        "x",
        "--steps",
        "2",
        "--codec",
        "ffv1",
    ]
    chosen = ["--plugin", "control:a", "--set", "a.model=controlnet_edges", "--set", "a.detector=canny"]
    chosen += [
        "--plugin",
        "control",
        "--set",
        "control.model=controlnet_pose",
        "--set",
        f"control.maps={picture}",
    ]
    done = CliRunner().invoke(
        main, [*arguments, *chosen, "-o", str(out), "--report", str(tmp_path / "r.json")]
    )
    assert done.exit_code == 0, done.output
    plugins = json.loads((tmp_path / "r.json").read_text())["plugins"]
    assert [each["name"] for each in plugins] == ["control:a", "control"]
    assert plugins[0]["options"]["detector"] == "canny" and plugins[0]["distribution"] == "zs2kit"
    two = [AnyControl(model="controlnet_edges", detector="canny")]
    two += [AnyControl(model="controlnet_pose", maps=str(picture))]
    edited = zs2kit.edit(zs2kit.read(clip), "x", model=folder, plugins=two, num_inference_steps=2)
    assert [*edited.plugins] == ["control", "control:control2"]
    for ours, theirs in zip(zs2kit.read(out), edited, strict=True):
        assert np.array_equal(ours.image, theirs.image)
    done = CliRunner().invoke(main, [*arguments, "--plugin", "control:a", "-o", str(tmp_path / "other.mkv")])
    assert done.exit_code == 2 and "error: a.model is not set" in done.output
    # The result is named after the plugin, once
    done = CliRunner().invoke(main, [*arguments, *chosen])
    assert done.stdout.strip() == str(tmp_path / "clip-control.mkv"), done.output


# A ControlNet in one file.


def in_original_names(network: diffusers.ControlNetModel) -> dict[str, torch.Tensor]:
    """A tiny ControlNet's weights as the original code names them."""
    hint = {
        r"^controlnet_cond_embedding.conv_in": "input_hint_block.0",
        r"^controlnet_cond_embedding.conv_out": "input_hint_block.14",
        r"^controlnet_down_blocks\.(\d+)": r"zero_convs.\1.0",
        r"^controlnet_mid_block": "middle_block_out.0",
    }
    weights = {}
    for name, value in network.state_dict().items():
        name = re.sub(
            r"^controlnet_cond_embedding.blocks\.(\d)",
            lambda it: f"input_hint_block.{2 * int(it[1]) + 2}",
            name,
        )
        weights[renamed(unet_name(renamed(name, hint)), UNET)] = value.clone()
    return weights


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_a_file_is_what_its_folder_is(tiny_folders, tmp_path, picture, kind):
    model, folder = zs2kit.Model.load(tiny_folders[kind]), tiny_folders[kind] / "controlnet_edges"
    network = diffusers.ControlNetModel.from_pretrained(folder)
    save_file(network.state_dict(), tmp_path / "diffusers.safetensors")
    whole = pixels(model, [AnyControl(model=str(folder), maps=str(picture))])
    files = ["diffusers.safetensors"]
    if kind == "epsilon":  # nobody has files of SDXL's in the original names
        original = in_original_names(network)
        save_file(original, tmp_path / "original.safetensors")
        save_file(
            {f"control_model.{each}": it for each, it in original.items()}, tmp_path / "whole.safetensors"
        )
        files += ["original.safetensors", "whole.safetensors"]
    for file in files:
        assert torch.equal(pixels(model, [AnyControl(model=str(tmp_path / file), maps=str(picture))]), whole)


def test_a_file_for_shuffle_sums_up(model, folder, picture, tmp_path):
    shutil.copytree(folder / "controlnet_pose", tmp_path / "pooled")
    config = json.loads((tmp_path / "pooled" / "config.json").read_text())
    (tmp_path / "pooled" / "config.json").write_text(json.dumps(config | {"global_pool_conditions": True}))
    file = tmp_path / "control_v11e_sd15_shuffle.safetensors"
    shutil.copy(folder / "controlnet_pose" / "diffusion_pytorch_model.safetensors", file)
    ours, theirs = (
        pixels(model, [AnyControl(model=str(each), maps=str(picture))])
        for each in (file, tmp_path / "pooled")
    )
    assert torch.equal(ours, theirs)


def test_a_file_for_a_model_of_more_channels(tiny_folders, tmp_path):
    """A ControlNet takes the latents alone."""
    model = zs2kit.Model.load(tiny_folders["instruct"])
    network = diffusers.ControlNetModel.from_pretrained(tiny_folders["instruct"] / "controlnet_edges")
    save_file(network.state_dict(), tmp_path / "edges.safetensors")
    loaded = model.load_controlnet(tmp_path / "edges.safetensors")
    assert loaded.config.in_channels == 4 and torch.equal(loaded.conv_in.weight, network.conv_in.weight)


def test_a_folder_of_one_variant(model, folder, picture, tmp_path):
    half = shutil.copytree(folder / "controlnet_edges", tmp_path / "half")
    weights = half / "diffusion_pytorch_model.safetensors"
    weights.rename(half / "diffusion_pytorch_model.fp16.safetensors")
    ours, theirs = (
        pixels(model, [AnyControl(model=str(each), maps=str(picture))])
        for each in (half, folder / "controlnet_edges")
    )
    assert torch.equal(ours, theirs)


# What the maps are made of.


def test_edges_follow_the_thresholds(model):
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], model)
    expected = cv2.Canny(chunk.images[0], 50, 80)
    assert np.array_equal(maps_of(model, Edges(low=50, high=80))[0, ..., 0], expected) and expected.any()


def test_depth_is_grey_and_a_map_of_every_frame(model):
    maps = maps_of(model, Depth())
    assert maps.shape == (FRAMES, 32, 32, 3) and maps.dtype == np.uint8
    assert np.array_equal(maps[..., 0], maps[..., 1]) and not np.array_equal(maps[0], maps[-1])


def test_a_clip_of_maps_is_read_in_step(model, folder, video):
    """Another source size than the model's, and a part of the source."""
    source = zs2kit.read(video, start=0.5)  # from frame 6 on
    plugin = AnyControl(model=str(folder / "controlnet_pose"), maps=str(video))
    for sizes in ([6], [4, 2]):
        plugin.load_detector(model, source)
        found = [
            each.mean()
            for chunk in chunks(drawn_clip(6), sizes, model)
            for each in plugin.detect(chunk.images, chunk)
        ]
        assert np.allclose(found, [20 * index for index in range(6, 12)], atol=3)


def test_maps_are_fitted_to_the_model_as_the_source_is(model, folder, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 48, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "map.png"), image[..., ::-1])
    clip = drawn_clip(1, width=48, height=20)
    (chunk,) = chunks(drawn_clip(1, width=48, height=20), [1], model)
    plugin = AnyControl(model=str(folder / "controlnet_pose"), maps=str(tmp_path / "map.png"))
    plugin.load_detector(model, clip)
    assert np.array_equal(plugin.detect(chunk.images, chunk)[0], chunk.fit.apply(image))


def test_a_checkpoints_own_controlnet_is_known_by_its_name(model, folder, picture):
    ours, theirs = (
        pixels(model, [AnyControl(model=str(name), maps=str(picture))])
        for name in ("controlnet_depth", folder / "controlnet_depth")
    )
    assert torch.equal(ours, theirs)


# Bad input is one line, before any sampling.


def refusal(model, plugin, clip=None) -> str:
    with pytest.raises((ModelError, UsageError, ClipError)) as error:
        zs2kit.edit(clip or drawn_clip(2), model=model, plugins=[plugin])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_maps_of_another_length_or_size(model, folder, video):
    plugin = AnyControl(model=str(folder / "controlnet_pose"), maps=str(video))
    assert "has 12 frames, but the clip has 2" in refusal(model, plugin)
    assert "32x32 pixels, but the clip is 48x32" in refusal(model, plugin, drawn_clip(12, width=48))
    plugin.maps = str(folder / "no.mp4")
    assert "no such file" in refusal(model, plugin)


def test_maps_that_go_on_are_said_at_the_end(model, folder, video):
    images = [frame.image for frame in drawn_clip(2)]
    plugin = AnyControl(model=str(folder / "controlnet_pose"), maps=str(video))
    clip = zs2kit.Clip.from_images(iter(images), 12)  # of a length that is not known before
    with pytest.warns(UserWarning, match="more frames than the clip, which has 2"):
        list(zs2kit.edit(clip, model=model, plugins=[plugin], num_inference_steps=1))


def test_control_says_what_it_needs(model, folder, picture):
    name = str(folder / "controlnet_pose")
    assert "`control.model` is not set" in refusal(model, AnyControl(detector="canny"))
    assert "either `control.detector` or `control.maps`" in refusal(model, AnyControl(model=name))
    both = AnyControl(model=name, detector="canny", maps=str(picture))
    assert "either `control.detector` or `control.maps`" in refusal(model, both)
    assert "no detector is called 'magic'" in refusal(model, AnyControl(model=name, detector="magic"))


@pytest.mark.parametrize("cls", [Pose, Depth, Edges])
def test_a_controlnet_of_another_family_is_refused_by_its_config_alone(model, tiny_folders, tmp_path, cls):
    """So gigabytes aren't fetched for nothing."""
    network = tiny_folders["sdxl"] / "controlnet_pose"
    shutil.copy(network / "config.json", tmp_path)
    assert "made for another family of models" in refusal(model, cls(model=str(tmp_path)))
    xl = zs2kit.Model.load(tiny_folders["sdxl"])
    assert "this folder has no diffusion_pytorch_model.safetensors" in refusal(xl, cls(model=str(tmp_path)))


def test_what_is_no_controlnet_is_refused(model, folder):
    assert "is a UNet2DConditionModel" in refusal(model, Edges(model=str(folder / "unet")))
    assert "has no config.json" in refusal(model, Edges(model=str(folder)))


def test_controlnets_load_from_safetensors_alone(model, folder, tmp_path):
    network = diffusers.ControlNetModel.from_pretrained(folder / "controlnet_edges")
    network.save_pretrained(tmp_path, safe_serialization=False)
    assert "safetensors" in refusal(model, Edges(model=str(tmp_path)))


def test_a_model_without_an_estimator_of_its_own_says_what_to_use(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("estimator"))
    bare = zs2kit.Model.load(tmp_path / "bare")
    assert "use midas" in refusal(bare, Depth(detector="puppets"))
    assert "Depth-Anything-V2" in refusal(bare, Depth())  # which can't be had offline


def test_files_that_are_no_controlnets_for_the_model(model, folder, tiny_folders, tmp_path):
    def of(name: str, weights: object) -> Edges:
        save_file(weights, tmp_path / f"{name}.safetensors")
        return Edges(model=str(tmp_path / f"{name}.safetensors"))

    assert "is a denoiser alone, not a ControlNet" in refusal(model, of("unet", model.unet.state_dict()))
    edges = diffusers.ControlNetModel.from_pretrained(folder / "controlnet_edges").state_dict()
    for key, kind in {
        "lora_controlnet": "a Control-LoRA",
        "control_add_embedding.linear_1.weight": "a ControlNet-Union",
        "difference": "a ControlNet that was saved as a difference",
    }.items():
        plugin = of("other", edges | {key: torch.zeros(1)})
        assert f"is {kind}, not a ControlNet; use a plain ControlNet" in refusal(model, plugin)
    other = diffusers.ControlNetModel.from_pretrained(tiny_folders["sdxl"] / "controlnet_edges")
    assert "made for another family of models than" in refusal(model, of("sdxl", other.state_dict()))
    assert "made for another family" in refusal(
        zs2kit.Model.load(tiny_folders["sdxl"]),
        of("sd", diffusers.ControlNetModel.from_pretrained(folder / "controlnet_edges").state_dict()),
    )
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "sd.safetensors").read_bytes()[:5000])
    assert "is not a safetensors file" in refusal(model, Edges(model=str(tmp_path / "half.safetensors")))
    assert "no such file" in refusal(model, Edges(model=str(tmp_path / "none.safetensors")))


def test_weights_for_what_needs_none(model):
    assert "`edges.annotators`: canny takes no weights" in refusal(model, Edges(annotators="folder"))
    assert "`depth.annotators` is for midas" in refusal(model, Depth(annotators="folder"))
