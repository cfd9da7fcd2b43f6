"""Metrics on clips whose answers are known, and against scikit-image where it has the same."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
from torchmetrics.functional.image import structural_similarity_index_measure as ssim
from torchmetrics.image.fid import FrechetInceptionDistance

import zs2kit
from zs2kit import Clip, io, metrics
from zs2kit.cli import main
from zs2kit.errors import ClipError, ModelError, UsageError
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.testing import drawn_clip, tiny_models

SIZE = 64


def texture(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """A smooth random picture that optical flow can hold on to."""
    noise = np.random.default_rng(seed).random((size, size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    low, high = smooth.min(), smooth.max()
    return ((smooth - low) / (high - low) * 255).astype(np.uint8)


def clip(images: Sequence[np.ndarray], rate: int = 8) -> Clip:
    return Clip.from_images(images, rate)


def shifted(pixels: float, count: int = 6) -> list[np.ndarray]:
    """A texture that moves to the right by so many pixels a frame."""
    wide = texture(size=SIZE * 2)
    moves = [np.float32([[1, 0, pixels * i - SIZE / 2], [0, 1, -SIZE / 2]]) for i in range(count)]
    return [cv2.warpAffine(wide, move, (SIZE, SIZE), flags=cv2.INTER_LINEAR) for move in moves]


def test_a_still_is_perfect_and_does_not_move():
    numbers = metrics.measure(clip([texture()] * 4), clip([texture()] * 4))
    assert numbers["temporal flickering"] == 1 and numbers["neighbour psnr"] == 100
    assert numbers["neighbour ssim"] == pytest.approx(1)
    assert numbers["luma drift"] == numbers["colour drift"] == numbers["warp error"] == 0
    assert numbers["motion"] == numbers["dynamic"] == 0
    assert numbers["motion alignment"] == 0
    assert "temporal amplification" not in numbers  # of nothing


def test_a_known_flicker():
    dark, bright = np.full((SIZE, SIZE, 3), 100, np.uint8), np.full((SIZE, SIZE, 3), 151, np.uint8)
    numbers = metrics.measure(clip([dark, bright, dark, bright]))
    assert numbers["temporal flickering"] == pytest.approx(1 - 51 / 255)
    assert numbers["neighbour psnr"] == pytest.approx(-20 * np.log10(51 / 255), abs=1e-3)
    assert numbers["luma drift"] == pytest.approx(51 / 255 * 2 / 3, abs=1e-4)  # frames 1 and 3 of 1 to 3


def test_a_known_shift_is_motion_and_no_error():
    numbers = metrics.measure(clip(shifted(2)), clip(shifted(2)))
    assert numbers["motion"] == pytest.approx(2, abs=0.4)
    assert numbers["dynamic"] == 1  # 2 pixels of 64 are more than the threshold of 1.5
    assert numbers["warp error"] < 0.1 * float(
        np.mean(
            [np.square(metrics.to_float(a) - metrics.to_float(b)).mean() for a, b in pairwise(shifted(2))]
        )
    )
    assert numbers["warp ssim"] > 0.85
    assert numbers["temporal amplification"] == pytest.approx(1)


def test_what_moves_against_its_source_is_seen():
    along = metrics.measure(clip(shifted(2)), clip(shifted(2)))
    against = metrics.measure(clip(shifted(-2)), clip(shifted(2)))
    assert along["motion alignment"] == 0 and against["motion alignment"] == pytest.approx(-4, abs=0.8)
    assert against["warp error"] > 10 * along["warp error"]
    assert against["warp ssim"] < along["warp ssim"] - 0.2


def test_pure_noise_is_far_from_everything():
    noise = [np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8) for seed in range(4)]
    numbers = metrics.measure(clip(noise), clip([texture(), *shifted(1, 3)]))
    assert numbers["temporal flickering"] == pytest.approx(2 / 3, abs=0.01)  # of two uniform draws
    assert abs(numbers["neighbour ssim"]) < 0.05
    assert numbers["temporal amplification"] > 5


def test_a_cut_shows_as_a_seam_where_chunks_meet():
    images = [texture(0)] * 4 + [texture(1)] * 4
    moving = [np.roll(image, index, axis=1) for index, image in enumerate(images)]
    at_the_cut = metrics.measure(clip(moving), chunk_size=4)["seam score"]
    beside_it = metrics.measure(clip(moving), chunk_size=3)["seam score"]
    assert at_the_cut > 2 > 1 > beside_it


def test_a_cut_is_as_far_as_its_two_pictures_are():
    a, b = np.full((SIZE, SIZE, 3), 60, np.uint8), np.full((SIZE, SIZE, 3), 162, np.uint8)  # apart by 0.4
    numbers = metrics.measure(clip([a, a, b, b, b]), clip([a, a, a, b, b]))
    assert numbers["temporal flickering"] == pytest.approx(1 - 0.4 / 4)
    assert numbers["neighbour psnr"] == pytest.approx((3 * 100 - 20 * math.log10(0.4)) / 4, abs=1e-3)
    assert numbers["luma drift"] == pytest.approx(0.4 * 3 / 4, abs=1e-4)
    lightness = [116 * (((x / 255 + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16 for x in (60, 162)]
    assert numbers["colour drift"] == pytest.approx((lightness[1] - lightness[0]) * 3 / 4, abs=0.1)
    assert numbers["warp error"] == pytest.approx(0.4**2 / 4, abs=1e-4)  # at the result's cut alone
    assert numbers["temporal amplification"] == pytest.approx(1)


def test_twice_the_contrast_has_four_times_the_energy():
    source = [image // 4 for image in shifted(2)]
    numbers = metrics.measure(clip([image * 2 for image in source]), clip(source))
    assert numbers["temporal amplification"] == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize("moving, dynamic", [(2, 1), (1, 0)])
def test_what_moves_in_a_quarter_of_the_frames_is_dynamic(moving, dynamic):
    images = [shifted(3, 9)[min(index, moving)] for index in range(9)]  # 9 frames: at least 2 pairs must
    assert metrics.measure(clip(images))["dynamic"] == dynamic
    every_second = [image for image in images for _ in range(2)]  # at 16 a second each shows twice
    assert metrics.measure(clip(every_second, 16))["dynamic"] == dynamic


def test_the_background_is_what_is_black_in_the_region():
    source = shifted(1, 3)
    region = [np.zeros((SIZE, SIZE, 3), np.uint8) for _ in source]
    for mask in region:
        mask[:, : SIZE // 2] = 255
    inside = [np.where(mask > 0, 255 - image, image) for image, mask in zip(source, region, strict=True)]
    kept = metrics.measure(clip(inside), clip(source), region=clip(region))
    assert kept["background psnr"] == 100 and kept["background mse"] == 0
    assert kept["background ssim"] == pytest.approx(1)
    lost = metrics.measure(clip([255 - image for image in source]), clip(source), region=clip(region))
    assert lost["background psnr"] < 20 and lost["background ssim"] < 0
    darker = [np.full_like(image, 100) for image in source], [np.full_like(image, 151) for image in source]
    known = metrics.measure(*map(clip, darker), region=clip(region))
    assert known["background mse"] == pytest.approx(0.2**2)
    assert known["background psnr"] == pytest.approx(-20 * math.log10(0.2), abs=1e-3)
    everything = [np.full_like(mask, 255) for mask in region]
    assert "background psnr" not in metrics.measure(clip(source), clip(source), region=clip(everything))


def test_ssim_is_that_of_scikit_image():
    a, b = metrics.to_float(texture(0)), metrics.to_float(texture(1))
    theirs = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=2
    )
    assert metrics.ssim(a, b) == pytest.approx(theirs, abs=1e-6)
    assert metrics.ssim(a, a) == 1


def test_ms_ssim_is_that_of_torchmetrics():
    a, b = (texture(seed, 256)[:181, :203] for seed in (0, 1))
    blend = (0.7 * a + 0.3 * b).round().astype(np.uint8)
    pictures = [metrics.to_float(each) for each in (a, blend)]
    a, b = (torch.from_numpy(each).permute(2, 0, 1)[None].double() for each in pictures)
    whole = float(ms_ssim(a, b, data_range=1.0, normalize="relu"))
    # At its coarsest scale torchmetrics lets the window reach beyond the picture, which the paper does not.
    assert metrics.ms_ssim(*pictures) == pytest.approx(whole, abs=0.002)
    product = 1.0
    for weight in metrics.SCALES[:-1]:
        product *= float(ssim(a, b, data_range=1.0, return_contrast_sensitivity=True)[1]) ** weight
        a, b = (torch.nn.functional.avg_pool2d(each, 2) for each in (a, b))
    inner = ssim(a, b, data_range=1.0, return_full_image=True)[1][..., 5:-5, 5:-5]
    assert metrics.ms_ssim(*pictures) == pytest.approx(
        product * float(inner.mean()) ** metrics.SCALES[-1], abs=1e-6
    )
    assert metrics.ms_ssim(pictures[0], pictures[0]) == pytest.approx(1)
    assert metrics.ms_ssim(pictures[0], 1 - pictures[0]) == 0


def test_ms_ssim_needs_room_for_five_scales():
    assert metrics.measure(clip([texture(size=176)] * 2))["neighbour ms-ssim"] == pytest.approx(1)
    assert "neighbour ms-ssim" not in metrics.measure(clip([texture(size=175)] * 2))


def test_colours_are_those_of_scikit_image():
    every = metrics.to_float(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    assert metrics.to_lab(every) == pytest.approx(rgb2lab(every), abs=0.05)
    black, white = np.zeros((2, 2, 3), np.float32), np.ones((2, 2, 3), np.float32)
    assert metrics.colour_difference(black, white) == pytest.approx(100, abs=0.01)


def test_what_is_hidden_is_not_counted():
    """A square moves over a still background: what it uncovers has no counterpart."""
    images = []
    for left in (20, 28):
        image = texture()
        image[20:40, left : left + 20] = texture(5)[20:40, 20:40] // 2 + 120
        images.append(metrics.to_float(image))
    forward, backward = metrics.flow(*images), metrics.flow(*images[::-1])
    seen = metrics.visible(forward, backward)
    assert seen[:15].mean() > 0.95 and seen[22:38, 42:48].mean() < 0.6  # covered in the second picture


def test_three_consistencies_of_known_features():
    features = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    assert metrics.consistency(features) == pytest.approx(
        {"all pairs": 1 / 3, "neighbours": 0.0, "subject": 0.25}
    )
    assert metrics.consistency(features[:1]) == {}


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def tiny_clip(folder):
    """A CLIP of random weights, saved as those of the hub are."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 300, "max_position_embeddings": 16, "eos_token_id": 1},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tiny_models()["epsilon"] / "tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


def test_a_clip_model_measures_frames_and_text(clip_model):
    features = metrics.TransformersFeatures(clip_model)
    frames = [texture(i) for i in range(3)]
    numbers = metrics.measure(
        clip(frames), features=[features], prompt="a red robot", source_prompt="a blue knight"
    )
    stacked = np.stack([features.image(frame) for frame in frames])
    assert numbers["clip all pairs"] == pytest.approx(metrics.consistency(stacked)["all pairs"])
    asked, was = (metrics.alignment(stacked, features.text(p)) for p in ("a red robot", "a blue knight"))
    assert numbers["clip text"] == pytest.approx(asked.mean())
    assert numbers["clip frame accuracy"] == (asked >= was).mean()
    assert "clip q-edit" not in numbers
    numbers = metrics.measure(clip(frames), clip(frames), features=[features], prompt="a red robot")
    assert numbers["clip q-edit"] == pytest.approx(numbers["warp ssim"] * numbers["clip text"])


def test_two_models_of_one_type_are_told_apart(clip_model, tmp_path):
    other = transformers.CLIPModel.from_pretrained(clip_model)
    torch.manual_seed(5)
    config = other.config
    config.projection_dim = 24  # another width
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    for part in (transformers.CLIPImageProcessor, transformers.CLIPTokenizer):
        part.from_pretrained(clip_model).save_pretrained(tmp_path)
    first, second = (metrics.TransformersFeatures(each) for each in (clip_model, tmp_path))
    frames = [texture(i) for i in range(3)]
    both = metrics.measure(clip(frames), features=[first, second], prompt="a robot")
    for model, name in ((first, "clip"), (second, "clip 2")):
        alone = metrics.measure(clip(frames), features=[model], prompt="a robot")
        for key in ("all pairs", "text"):
            assert both[f"{name} {key}"] == alone[f"clip {key}"]


def test_a_prompt_that_is_too_long_says_what_is_cut(clip_model):
    features = metrics.TransformersFeatures(clip_model)
    long = " ".join(["robot"] * 100)
    with pytest.warns(UserWarning, match=r"clip reads 14 tokens of a prompt, .*no effect: .* robot'"):
        features.text(long)


def test_a_vision_model_measures_frames_alone(tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    features = metrics.TransformersFeatures(tmp_path)
    numbers = metrics.measure(clip([texture(i) for i in range(3)]), features=[features], prompt="a robot")
    assert 0 < numbers["vit subject"] <= 1 and "vit text" not in numbers


def test_a_model_without_features_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="can't be loaded for its features") as raised:
        metrics.TransformersFeatures(tmp_path)
    assert "\n" not in str(raised.value)


def test_alignment_is_a_cosine():
    images = np.array([[2, 0], [1, 1]], np.float32)
    assert metrics.alignment(images, np.array([3, 0], np.float32)) == pytest.approx([100, 100 / 2**0.5])


def test_frechet_distance_of_known_normals():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(20_000, 3))
    b = rng.normal(size=(20_000, 3)) * 2 + [1, 0, 0]
    # |m1 - m2|^2 + sum of (s1 - s2)^2 over independent channels
    assert metrics.frechet_distance(a, b) == pytest.approx(1 + 3, abs=0.15)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_that_of_torchmetrics():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 8)), rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8)) + 0.5

    class Given(torch.nn.Module):
        """Takes features for pictures."""

        num_features = 8

        def forward(self, features):
            return features.flatten(1)

    theirs = FrechetInceptionDistance(Given(), normalize=True, input_img_size=(8, 1, 1)).set_dtype(
        torch.double
    )
    theirs.update(torch.from_numpy(a)[..., None, None], real=True)
    theirs.update(torch.from_numpy(b)[..., None, None], real=False)
    assert metrics.frechet_distance(a, b) == pytest.approx(float(theirs.compute()), rel=1e-4)


@pytest.mark.parametrize("shape", [(5, 4), (1, 3), (5,)])
def test_features_that_can_not_be_compared_are_one_line(shape):
    with pytest.raises(UsageError, match="of one model, with two samples or more"):
        metrics.frechet_distance(np.zeros((5, 3)), np.zeros(shape))


@pytest.mark.parametrize(
    "divergence, expected", [(0.1, 1 - 0.1 / MAX_DIVERGENCE), (MAX_DIVERGENCE, 0), (0, 1)]
)
def test_dependency_noise_is_white_and_correlates_as_it_says(divergence, expected):
    noise = dependency_noise((4, 64, 64), range(6), divergence, 0).numpy()
    numbers = metrics.noise_statistics(noise)
    assert numbers["neighbour correlation"] == pytest.approx(expected, abs=0.02)
    assert numbers["variance"] == pytest.approx(1, abs=0.03)
    assert numbers["spatial correlation"] < 5 / math.sqrt(4 * 64 * 64)


def test_what_is_wrong_with_noise_is_seen():
    white = np.random.default_rng(0).normal(size=(1, 4, 64, 64))
    assert metrics.noise_statistics(2 * white)["variance"] == pytest.approx(4, abs=0.1)
    assert "neighbour correlation" not in metrics.noise_statistics(white)
    blurred = (white + np.roll(white, 1, axis=3)) / 2**0.5  # neighbours share one of their two parts
    assert metrics.noise_statistics(blurred)["spatial correlation"] == pytest.approx(0.5, abs=0.02)
    against = np.concatenate([white, -white])
    assert metrics.noise_statistics(against)["neighbour correlation"] == pytest.approx(-1)
    assert metrics.noise_statistics(np.zeros((2, 1, 4, 4)))["spatial correlation"] == 0


@pytest.mark.parametrize(
    "source, message",
    [([texture(size=32)] * 3, "same size"), ([texture()] * 2, "2 frames"), ([texture()] * 4, "3 frames")],
)
def test_clips_that_differ_are_one_line(source, message):
    with pytest.raises(ClipError, match=message):
        metrics.measure(clip([texture()] * 3), clip(source))


@pytest.mark.parametrize("size", [1, 8])
def test_a_single_frame_and_a_tiny_one(size):
    numbers = metrics.measure(clip([np.zeros((size, size, 3), np.uint8)]))
    assert numbers == {"frames": 1.0}
    assert "motion" not in metrics.measure(clip([np.zeros((size, size, 3), np.uint8)] * 3))


def run(*arguments):
    return CliRunner().invoke(main, ["metrics", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    made = {"source": shifted(2), "result": [255 - image for image in shifted(2)], "short": shifted(2, 3)}
    return {name: zs2kit.write(folder / f"{name}.mkv", clip(images)) for name, images in made.items()}


def test_the_command_prints_what_measure_returns(files):
    printed = run(files["result"], "--source", files["source"], "--json")
    assert printed.exit_code == 0, printed.output
    numbers = metrics.measure(zs2kit.read(files["result"]), zs2kit.read(files["source"]))
    assert json.loads(printed.output) == pytest.approx(numbers)
    table = run(files["result"]).output.splitlines()
    assert table[0].split() == ["frames", "6"] and any(line.startswith("motion ") for line in table)


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["{result}", "--source", "{short}"], 1, "one clip has 3 frames"),
        (["{result}", "--source", "nowhere.mp4"], 1, "nowhere.mp4"),
        (["{result}", "--region", "{source}"], 2, "--region is compared with the source; give --source"),
        (["{result}", "--prompt", "a robot"], 2, "name one with --features"),
        (["{result}", "--features", "./nowhere"], 1, "can't be loaded for its features"),
    ],
)
def test_bad_input_is_one_line(files, arguments, code, message, capfd):
    ended = run(*(each.format(**files) for each in arguments))
    said = ended.output + capfd.readouterr().err
    assert ended.exit_code == code and message in said and said.count("\n") == 1


def test_every_number_is_documented(files, clip_model, documented_metrics):
    numbers = metrics.measure(
        *(zs2kit.read(files[name]) for name in ("result", "source")),
        region=zs2kit.read(files["source"]),
        chunk_size=2,
        features=[metrics.TransformersFeatures(clip_model)],
        prompt="a",
        source_prompt="b",
    )
    assert {name.removeprefix("clip ") for name in numbers.keys() - {"frames"}} <= documented_metrics


# ---- in words


def test_each_metric_has_its_unit_and_direction(tmp_path: Path) -> None:
    source = io.write(tmp_path / "clip.mp4", drawn_clip(8), quality=5)
    done = run(source, "--source", source, "--end", 0.3, "--json")
    assert (done.exit_code, "one clip has" in done.stderr) == (1, True)  # the source alone is cut
    done = run(source, "--source", source, "--chunk-size", 4)
    *lines, short = done.stdout.splitlines()
    assert done.exit_code == 0, done.output
    assert short == "In short: it changes about as much as its source from frame to frame: steady."
    named = {line[:24].strip(): line for line in lines}
    assert {*named} - {"frames"} <= {*metrics.UNITS} and "higher is steadier" in named["neighbour psnr"]
    assert "In short: it " in run(source).stdout


@pytest.mark.parametrize(
    ("amplification", "says"), [(0.25, "0.5 times"), (1.0, "steady"), (4.0, "2 times as much as its source")]
)
def test_the_verdict_goes_by_the_source(amplification: float, says: str) -> None:
    assert says in metrics.verdict({"temporal amplification": amplification})
