"""The Instruct-Pix2Pix model of the puppets world: scenes and their variations, training, export, measuring.

A family is a scene of the training set and two variations of it, alike but for kind, colour or place. Each of
the three can be turned into each of the others, by instructions made up while training.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline, UNet2DModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import ResNetForImageClassification

from .captions import is_held_out
from .detector import detect
from .diffusion import Diffusion, load_vae, save_part, text_to_image, to_tensor, tokenizer
from .instructions import Edit, instruction, load_edits
from .networks import GROUPS, LATENT_SIZE, MODEL_INDEX, SIZE, scheduler
from .pictures import SHARD, latents, save_array, scene
from .training import Run, autocast, fit, load_weights
from .world import Scene, render
from .yardsticks import Images, Numbers, classify, correct, grid, save_picture

VARIATIONS = 2  # of each scene: six pairs a family
STEPS, GUIDANCE = 20, (5.0, 1.5)  # of the edits to judge by; guidance by text and by image
Follow = Callable[[Images, list[str]], Images]
"""Edits pictures (pictures, SIZE, SIZE, 3) by an instruction each."""
DROPPED = 0.05  # of the samples for each way of dropping a condition, as Brooks et al. (2022) do


def vary(original: Scene, group: str, rng: np.random.Generator) -> Scene:
    """The same scene with another kind, colour or place, never one that is held out."""
    changes: list[dict[str, Any]] = [{group: name} for name in GROUPS[group]]
    others = [other for change in changes if (other := replace(original, **change)) != original]
    trained = [other for other in others if not is_held_out(other.kind, other.colour, other.place)]
    return trained[int(rng.integers(len(trained)))]


def variations(number: int) -> list[Scene]:
    """The scene of this number with one change and with another, every second time of the same group."""
    rng = np.random.default_rng((3, number))
    original = scene(number)
    first, second = (str(name) for name in rng.choice(list(GROUPS), 2, replace=False))
    if rng.random() < 0.5:
        second = first
    found = [vary(original, first, rng), vary(original, second, rng)]
    while found[0] == found[1]:
        found[1] = vary(original, second, rng)
    return found


@torch.no_grad()
def make_pairs(run: Run) -> None:
    """Render and encode the variations of all scenes that there are latents of."""
    vae = load_vae(run)
    folder = run.work / "pairs"
    for index in range(run.rank, len(latents(run.work)), run.processes):
        if (folder / f"{index:05d}.labels.npy").exists():
            continue
        scenes = [each for row in range(SHARD) for each in variations(index * SHARD + row)]
        labels = [[names.index(getattr(each, group)) for group, names in GROUPS.items()] for each in scenes]
        encoded = []
        for start in range(0, len(scenes), 32):
            images = np.stack([render(each, SIZE).image for each in scenes[start : start + 32]])
            with autocast(run.device):
                encoded.append(vae.encode(to_tensor(images, run.device)).latent_dist.mean.float())
        shape = (SHARD, VARIATIONS, 4, LATENT_SIZE, LATENT_SIZE)
        values = torch.cat(encoded).half().cpu().numpy()
        save_array(folder / f"{index:05d}.latents.npy", values.reshape(shape))
        # last: a shard with labels is complete
        save_array(folder / f"{index:05d}.labels.npy", np.array(labels, np.uint8).reshape(SHARD, -1, 3))
        print(f"pairs {index + 1} shards", flush=True)


class Pairs:
    """What the edit model learns from: two of a family, and an instruction that turns one into the other."""

    def __init__(self, run: Run) -> None:
        self.run = run
        names = [path.name.split(".")[0] for path in sorted((run.work / "pairs").glob("*.labels.npy"))]
        if not names:
            raise SystemExit("no pairs yet: run the stage 'pairs' first")
        self.shards = []
        for name, (values, _, labels) in zip(names, latents(run.work), strict=False):
            varied = [np.load(run.work / f"pairs/{name}.{part}.npy") for part in ("latents", "labels")]
            self.shards.append(
                (
                    np.concatenate([np.asarray(values)[:, None], varied[0]], axis=1),
                    np.concatenate([np.asarray(labels)[:, None], varied[1]], axis=1),
                )
            )
        self.diffusion = Diffusion(run)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, list[str]]:
        """Latents of sources and of targets, both (count, 4, LATENT_SIZE, LATENT_SIZE), and instructions."""
        picked = np.empty((2, count, 4, LATENT_SIZE, LATENT_SIZE), np.float32)
        texts = []
        for i in range(count):
            values, labels = self.shards[rng.integers(len(self.shards))]
            row = int(rng.integers(SHARD))
            pair = rng.choice(VARIATIONS + 1, 2, replace=False)
            picked[:, i] = values[row, pair]
            before, after = (
                tuple(names[label] for names, label in zip(GROUPS.values(), labels[row, member], strict=True))
                for member in pair
            )
            texts.append(instruction(before, after, rng))
        sources, targets = torch.from_numpy(picked).to(self.run.device)
        return sources, targets, texts


def widen(unet: Any) -> None:
    """Give a U-Net four more channels for the source's latents, which it ignores at first."""
    narrow = unet.conv_in
    unet.conv_in = nn.Conv2d(8, narrow.out_channels, narrow.kernel_size, padding=narrow.padding)
    with torch.no_grad():
        unet.conv_in.weight.zero_()
        unet.conv_in.weight[:, :4] = narrow.weight
        unet.conv_in.bias.copy_(narrow.bias)
    unet.register_to_config(in_channels=8)


def edit_model(run: Run) -> nn.ModuleDict:
    """Text encoder and U-Net of the base, ready to learn from pairs."""
    both = text_to_image(run)
    load_weights(both, run, "unet")
    widen(both["unet"])
    return both


def train_instruct(run: Run) -> None:
    """Text encoder and U-Net together, on from those that draw from text."""
    data, both = Pairs(run), edit_model(run)

    def loss(rng: np.random.Generator) -> Tensor:
        sources, targets, texts = data.draw(rng, run.batch or 24)
        dropped = rng.random(len(texts))
        texts = ["" if chance < 2 * DROPPED else text for chance, text in zip(dropped, texts, strict=True)]
        # a twentieth without text, as many with neither text nor source, as many without source
        blank = torch.from_numpy((dropped >= DROPPED) & (dropped < 3 * DROPPED))
        sources[blank.to(run.device)] = 0
        noised, timesteps, velocity = data.diffusion.noise(targets, rng)
        with autocast(run.device):
            embeds = both["text_encoder"](data.diffusion.tokenize(texts)).last_hidden_state
            predicted = both["unet"](
                torch.cat([noised, sources], dim=1), timesteps, encoder_hidden_states=embeds
            ).sample
        return F.mse_loss(predicted.float(), velocity)

    fit("instruct", both, loss, run, rate=1e-3)


def export_instruct(run: Run, folder: Path) -> dict[str, int]:
    """The edit model as a diffusers folder of its own, but for the VAE: ``instruct`` in ``folder``."""
    if not run.path("instruct").exists():
        return {}
    both = edit_model(run)
    steps = load_weights(both, run, "instruct")
    for name, network in both.items():
        save_part(network, folder / "instruct" / name)
    tokenizer(run).save_pretrained(folder / "instruct/tokenizer")
    scheduler().save_pretrained(folder / "instruct/scheduler")
    index = MODEL_INDEX | {"_class_name": "StableDiffusionInstructPix2PixPipeline"}
    (folder / "instruct/model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return {"instruct": steps}


def follow(pipe: Any, images: Images, texts: list[str], steps: int, guidance: tuple[float, float]) -> Images:
    """Pictures (pictures, SIZE, SIZE, 3) edited by their instructions; guidance by text and by image.

    The number of the picture is its seed.
    """
    edited = []
    for i in range(0, len(images), 10):
        batch = range(i, min(i + 10, len(images)))
        edited.append(
            pipe(
                [texts[k] for k in batch],
                image=(to_tensor(images[batch.start : batch.stop]) + 1) / 2,
                num_inference_steps=steps,
                guidance_scale=guidance[0],
                image_guidance_scale=guidance[1],
                generator=[torch.Generator().manual_seed(k) for k in batch],
                output_type="np",
            ).images
        )
    return (np.concatenate(edited) * 255).round().astype(np.uint8)


class Outcome(NamedTuple):
    """What came of edits, one row each."""

    sources: Images
    results: Images
    asked: NDArray[np.bool_]  # (edits, 3): which of kind, colour and place was to change
    right: NDArray[np.bool_]  # (edits, 3): which is as it should be, changed or not
    near: NDArray[np.float64]  # (edits,): share of the keypoints that are where they were

    @property
    def found(self) -> NDArray[np.bool_]:
        """Whether all is to be seen that was asked for."""
        return np.asarray((self.right | ~self.asked).all(axis=1))

    @property
    def others(self) -> NDArray[np.bool_]:
        """Whether kind, colour and place are as they were, if nothing else was asked for."""
        return np.asarray((self.right | self.asked).all(axis=1))

    @property
    def pose(self) -> NDArray[np.bool_]:
        """Whether the pose was kept."""
        return np.asarray(self.near >= 0.8)


def follower(folder: Path) -> Follow:
    """The edit model in ``folder``, as diffusers' own pipeline drives it."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        folder / "instruct", vae=vae, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return lambda images, texts: follow(pipe, images, texts, STEPS, GUIDANCE)


def try_edits(folder: Path, edits: list[Edit], carry_out: Follow) -> Outcome:
    """Carry out edits, and see with what reads pictures in ``folder``."""
    classifier = ResNetForImageClassification.from_pretrained(folder / "classifier").eval()
    detector = UNet2DModel.from_pretrained(folder / "detector").eval()
    scenes = [scene(edit.scene, "test") for edit in edits]
    pictures = [render(each, SIZE) for each in scenes]
    sources = np.stack([picture.image for picture in pictures])
    results = carry_out(sources, [edit.instruction for edit in edits])
    before, after = (
        np.array([[names.index(getattr(each, group)) for group, names in GROUPS.items()] for each in what])
        for what in (scenes, edits)
    )
    true = np.stack([picture.keypoints for picture in pictures])
    near = correct(detect(detector, results), true, 0.1).mean(axis=1)
    return Outcome(sources, results, before != after, classify(classifier, results) == after, near)


def measure_instruct(folder: Path, docs: Path | None) -> Numbers:
    """What came of the edits to judge by, and what else did."""
    return measure_follower(folder, follower(folder), "instruct", docs)


def measure_follower(folder: Path, carry_out: Follow, name: str, docs: Path | None) -> Numbers:
    """The same of any edit model of this name."""
    edits = load_edits()
    outcome = try_edits(folder, edits, carry_out)
    by_hand = np.array([edit.source == "hand" for edit in edits])
    kept = outcome.others & outcome.pose
    numbers = {
        "asked for and found": outcome.found.mean(),
        "asked for and found, hand-written": outcome.found[by_hand].mean(),
        **{
            f"asked for and found, {group}": outcome.right[outcome.asked[:, i], i].mean()
            for i, group in enumerate(GROUPS)
        },
        "nothing else changed": kept.mean(),
        "kind, colour and place else kept": outcome.others.mean(),
        "pose kept": outcome.pose.mean(),
        "PCK@0.1": outcome.near.mean(),
    }
    if docs:
        cells = [
            _cell(
                edits[k].instruction, outcome.sources[k], outcome.results[k], bool((outcome.found & kept)[k])
            )
            for k in range(0, len(edits), 5)
        ]
        rows = [np.concatenate(cells[i : i + 10], axis=1) for i in range(0, len(cells), 10)]
        save_picture(docs / f"puppets-{name.replace(' ', '-')}.jpg", np.concatenate(rows))
    return {f"{name}: {what}": float(value) for what, value in numbers.items()}


def _cell(text: str, source: Images, result: Images, right: bool) -> Images:
    """An instruction above its source above its result, which a red frame marks as wrong."""
    strip = np.full((48, SIZE, 3), 255, np.uint8)
    for i, line in enumerate(textwrap.wrap(text, 24)):
        cv2.putText(strip, line, (3, 10 + 11 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, source, grid(result[None], 1, np.array([not right]))])
