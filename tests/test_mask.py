"""Mask: what is outside the region stays to the bit, and the rest is drawn to fit it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import zs2kit
from zs2kit import Plugin, hookimpl
from zs2kit.errors import ClipError, ModelError, UsageError
from zs2kit.model import Model
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.people import find_people, silhouette
from zs2kit.puppets.world import motion_scenes, render
from zs2kit.schedule import make_scheduler
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.mask import Mask, outside
from zs2kit_plugins.strength import Strength

SAMPLES = Path(__file__).parents[1] / "samples"
sys.path.insert(0, str(SAMPLES))
import make  # noqa: E402

FRAMES = 3


def masks(tmp_path, frames=FRAMES, width=32, height=32):
    """A clip of masks on disk: a white square that moves to the right."""
    images = np.zeros((frames, height, width, 3), np.uint8)
    for index, image in enumerate(images):
        image[height // 4 : height // 2, 4 + index : width // 2 + index] = 255
    path = tmp_path / f"masks-{frames}-{width}.mkv"
    zs2kit.write(path, zs2kit.Clip.from_images(images, 12), codec="ffv1")
    return path


def edit(tiny, plugin, source=None, **settings):
    source = source or drawn_clip(FRAMES)
    return [
        f.image for f in zs2kit.edit(source, model=tiny, plugins=[plugin], num_inference_steps=2, **settings)
    ]


@pytest.mark.parametrize("width, height", [(32, 32), (51, 37)])
def test_all_outside_a_clip_of_masks_stays_to_the_bit(tiny, tmp_path, width, height):
    path = masks(tmp_path, width=width, height=height)
    region = np.stack([frame.image[..., 0] > 127 for frame in zs2kit.read(path)])
    source = [frame.image for frame in drawn_clip(FRAMES, width=width, height=height)]
    edited = edit(tiny, Mask(clip=str(path), grow=0), drawn_clip(FRAMES, width=width, height=height))
    for was, now, inside in zip(source, edited, region, strict=True):
        assert np.array_equal(now[~inside], was[~inside])
        assert not np.array_equal(now[inside], was[inside])


def test_the_region_may_be_what_is_kept(tiny, tmp_path):
    plugin = Mask(clip=str(masks(tmp_path)), grow=0, invert=True)
    first, was = edit(tiny, plugin)[0], next(iter(drawn_clip(FRAMES))).image
    assert np.array_equal(first[8:16, 4:16], was[8:16, 4:16]) and not np.array_equal(first[:8], was[:8])


def test_growing_and_feathering_are_in_pixels_of_the_frame():
    region = np.zeros((40, 40), bool)
    region[10:30, 10:30] = True
    plain = outside(region, 0, 0)
    assert set(np.unique(plain)) == {0, 1} and np.array_equal(plain == 0, region)
    grown = outside(region, 4, 0)
    assert (grown[6:34, 15:25] == 0).all() and (grown[:6] == 1).all() and grown[6, 6] == 1  # round corners
    soft = outside(region, 0, 4)
    assert (soft[~region] == 1).all() and soft[20, 20] == 0
    assert np.allclose(soft[20, 10:15], [0.8, 0.6, 0.4, 0.2, 0])


def test_no_region_keeps_all_and_a_whole_one_nothing():
    assert (outside(np.zeros((8, 8), bool), 3, 2) == 1).all()
    assert (outside(np.ones((8, 8), bool), 0, 2) == 0).all()


def test_nothing_to_draw_is_said(tiny, tmp_path):
    path = tmp_path / "black.mkv"
    zs2kit.write(path, zs2kit.Clip.from_images([np.zeros((32, 32, 3), np.uint8)] * FRAMES, 12))
    with pytest.warns(UserWarning, match="3 of 3 frames stay as they are"):
        edited = edit(tiny, Mask(clip=str(path)))
    assert all(np.array_equal(a, b.image) for a, b in zip(edited, drawn_clip(FRAMES), strict=True))


@dataclass(eq=False)
class Half(Plugin):
    """Keeps the right half: whole latents, so that any way of scaling the mask agrees."""

    @hookimpl
    def keep(self, chunk):
        kept = np.zeros((chunk.length, 32, 32), np.float32)
        kept[:, :, 16:] = 1
        return kept


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_parity_with_the_diffusers_inpainting_pipeline(tiny, scheduler):
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], tiny)
    settings = {"momentum": 0, "divergence": MAX_DIVERGENCE, "scheduler": scheduler}
    ours = edited_pixels(make_scan(tiny, [Half()], **settings), [chunk])
    components = {name: part for name, part in tiny.pipeline.components.items() if name != "image_encoder"}
    components["scheduler"] = make_scheduler(scheduler, tiny.pipeline.scheduler.config, 8)
    pipeline = diffusers.StableDiffusionInpaintPipeline(**components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    noise = dependency_noise(tiny.latent_shape(32, 32), range(FRAMES), MAX_DIVERGENCE, 0)
    source = tiny.encode(chunk.pixels)
    drawn = torch.zeros(1, 1, 32, 32)
    drawn[..., :16] = 1
    for index in range(FRAMES):
        theirs = pipeline(
            "a red robot",
            image=source[index : index + 1],  # latents are taken as they are
            mask_image=drawn,
            masked_image_latents=torch.zeros(1, 4, 8, 8),  # for denoisers of 9 channels, unused here
            height=32,
            width=32,
            latents=noise[index : index + 1],
            num_inference_steps=8,
            guidance_scale=5.0,
            output_type="pt",
        ).images
        worst = (ours[index] - theirs[0]).abs().max().item()
        print(f"largest difference, inpainting, {scheduler}: {worst:.1e}")
        assert worst <= 1e-3
    plain = edited_pixels(make_scan(tiny, **settings), [chunk])
    assert (plain - ours).abs().max() > 1e-2


def segmenter(folder):
    """A SegFormer of random weights with two labels."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label={0: "wall", 1: "person"},
        label2id={"wall": 0, "person": 1},
    )
    network = transformers.SegformerForSemanticSegmentation(config)
    network.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_model_of_transformers_finds_the_region(tiny, tmp_path):
    folder = segmenter(tmp_path / "segmenter")
    scan = make_scan(tiny, [Mask(model=str(folder), label="wall", grow=0, feather=0)])
    (chunk,) = chunks(drawn_clip(FRAMES, width=48, height=40), [FRAMES], tiny)
    wall = scan.hook.keep(chunk=chunk)[0]
    other = make_scan(tiny, [Mask(model=str(folder), label="person", grow=0, feather=0)])
    person = other.hook.keep(chunk=chunk)[0]
    assert wall.shape == (FRAMES, 40, 48) and 0 < wall.mean() < 1
    assert np.array_equal(wall, 1 - person)  # every pixel has one label


def test_a_label_that_the_model_lacks_is_answered_with_those_that_it_has(tiny, tmp_path):
    folder = str(segmenter(tmp_path / "segmenter"))
    for label in (None, "dog"):
        with pytest.raises(UsageError, match="choose from wall, person"):
            edit(tiny, Mask(model=folder, label=label))


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"clip": "a.mp4", "model": "b"}, UsageError, "can't be used together"),
        ({"label": "person"}, UsageError, "set both"),
        (
            {"model": "/nowhere/at/all", "label": "person"},
            ModelError,
            "there is no such folder",
        ),
        ({"clip": "/nowhere/at/all.mp4"}, ClipError, "nowhere"),
    ],
)
def test_bad_options_are_one_line_before_any_work(tiny, settings, error, message):
    with pytest.raises(error, match=message) as raised:
        edit(tiny, Mask(**settings))
    assert "\n" not in str(raised.value)


def test_a_model_without_a_segmenter(tiny):
    with pytest.raises(ModelError, match=r"has no segmentation model of its own; use `mask.model=person`"):
        edit(Model(tiny.pipeline, "other"), Mask(model="figure"))


def test_masks_of_another_size_or_length(tiny, tmp_path):
    for path in (masks(tmp_path, width=48), masks(tmp_path, frames=2), masks(tmp_path, frames=4)):
        with pytest.raises(ClipError, match="masks-"):
            edit(tiny, Mask(clip=str(path)))


def test_the_background_of_a_puppet_stays(tmp_path):
    """With the bundled segmenter, and in the default file: at least 40 dB where nothing was to change.

    From a video file to a video file: both hold colours at half the resolution, which pictures don't.
    """
    source = zs2kit.read(SAMPLES / "robot-dance.mp4", end=Fraction(1, 6))
    figures = [
        render(each, 256).mask for each in motion_scenes(*make.SAMPLES["robot-dance"][:2], 2, fps=12.0)
    ]
    originals = list(source)
    again = replace(source, frames=iter(originals))
    edited = zs2kit.edit(again, "a green wizard", plugins=[Mask()], num_inference_steps=4)
    frames = list(edited)
    zs2kit.write(tmp_path / "out.mp4", edited.with_frames(frames))
    written = list(zs2kit.read(tmp_path / "out.mp4"))
    for figure, was, now, read in zip(figures, originals, frames, written, strict=True):
        near = cv2.dilate(figure.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
        assert near.mean() < 0.9
        assert np.array_equal(now.image[~near], was.image[~near])
        assert not np.array_equal(now.image[figure], was.image[figure])
        error = np.square(read.image[~near].astype(float) - was.image[~near]).mean() / 255**2
        print(f"kept part in the file: {-10 * np.log10(error):.1f} dB")
        assert -10 * np.log10(error) >= 40


def test_all_but_people_stays_to_the_bit(tiny):
    """A woman's silhouette is drawn anew, which a checkpoint without a model of its own does by itself."""
    crop = cv2.imread(str(Path(__file__).parent / "people" / "crop.png"))[..., ::-1]
    clip = zs2kit.Clip([zs2kit.Frame(crop, 0)], 256, 256, Fraction(12), Fraction(1, 12), 1)
    (edited,) = edit(Model(tiny.pipeline, "other"), Mask(grow=0, feather=0), clip, size=(64, 64))
    inside = silhouette(crop, find_people([crop])[0]) > 0.5
    assert 0.05 < inside.mean() < 0.3
    assert np.array_equal(edited[~inside], crop[~inside])
    assert (edited[inside] != crop[inside]).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("every", [1, 2])
def test_people_are_followed_from_chunk_to_chunk(tiny, every):
    """In frames that are filled in between the drawn ones, too."""
    crop = cv2.imread(str(Path(__file__).parent / "people" / "crop.png"))[..., ::-1]
    images = [np.roll(crop, 3 * index, axis=1) for index in range(5)]
    clip, other = zs2kit.Clip.from_images(images, 12), Model(tiny.pipeline, "other")
    settings = {"size": (64, 64), "num_inference_steps": 2, "every": every}
    plugins = [Strength(1.0), Mask(grow=0, feather=0)]
    whole, cut = (
        [
            frame.image
            for frame in zs2kit.edit(clip, model=other, plugins=plugins, chunk_size=size, **settings)
        ]
        for size in (5, 1)
    )
    for was, one, two in zip(images, whole, cut, strict=True):
        inside = silhouette(was, find_people([was])[0]) > 0.5
        outside = cv2.dilate(inside.astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
        assert np.array_equal(one[outside], was[outside])
        assert (one[inside] != was[inside]).any(axis=-1).mean() > 0.8
        assert np.abs(one.astype(int) - two).max() <= 1


def test_masks_with_a_palette_mean_all_that_is_not_black(tiny, tmp_path):
    """As datasets and segmenters write them: 0 is the background, 1 the object, in some dark colour."""
    plain, dark = tmp_path / "plain.png", tmp_path / "dark.png"
    classes = np.zeros((32, 32), np.uint8)
    classes[8:24, 8:24] = 1
    picture = Image.fromarray(classes, "P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    picture.save(plain)
    first = edit(tiny, Mask(clip=str(plain), grow=0, feather=0))[0]
    was = next(iter(drawn_clip(FRAMES))).image
    changed = (first != was).any(axis=2)
    assert changed[8:24, 8:24].mean() > 0.9 and not changed[classes == 0].any()
    Image.fromarray(classes).save(dark)  # the same numbers as grey levels: nobody sees them
    with pytest.raises(UsageError, match=r"lightest pixel of .*dark\.png is 1 of 255"):
        edit(tiny, Mask(clip=str(dark)))


def test_masks_that_would_not_be_read_as_they_are_meant_say_so(tiny, tmp_path):
    """Cut-outs, labels of 16 bits, and classes in grey or in colour."""
    region = np.zeros((32, 32), np.uint8)
    region[8:24, 8:24] = 255
    none = np.zeros_like(region)

    def noticed(name: str, picture: np.ndarray) -> list[str]:
        Image.fromarray(picture).save(tmp_path / name)
        notices = []
        plugin = Mask(clip=str(tmp_path / name), grow=0, feather=0)
        zs2kit.edit(drawn_clip(2), "a", model=tiny, plugins=[plugin], notices=notices.append)
        return [each.message for each in notices]

    assert not noticed("white.png", region) and not noticed(
        "opaque.png", np.dstack([region] * 3 + [none + 255])
    )
    for name, colours in {"cut-out": none, "hole": none + 90}.items():
        with pytest.raises(UsageError, match="are transparent, but its colours say what is redrawn"):
            noticed(f"{name}.png", np.dstack([colours] * 3 + [region]))
    with pytest.raises(UsageError, match=r"lightest pixel of .* is 3 of 65535, so nothing would be redrawn"):
        noticed("labels.png", (region // 85).astype(np.uint16))
    assert not noticed("deep.png", region.astype(np.uint16) * 257)
    for name, dark in {"grey": region // 3, "red": np.dstack([region, none, none])}.items():
        (message,) = noticed(f"{name}.png", dark)
        assert message.endswith("is 85 of 255 in the first pictures; what isn't lighter than half stays")
