"""Measure the model on what training never saw: python -m zs2kit.puppets.evaluate [--docs docs]."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DModel
from numpy.typing import NDArray
from transformers import ResNetForImageClassification

from .captions import Prompt, is_held_out, load_prompts
from .detector import detect
from .networks import GROUPS, SIZE
from .pictures import draw, scene
from .train import WEIGHTS
from .world import MOTIONS, motion_scenes, render
from .yardsticks import (
    Images,
    Numbers,
    Points,
    body_heights,
    classify,
    correct,
    grid,
    psnr,
    reconstruct,
    save_picture,
    shares,
)

WANTED = {
    "VAE": "30",
    "classifier, renders": "99%",
    "classifier, reconstructions": "98%",
    "detector, renders": "95%",
    "text, held-out": "",
    "text": "95%",
    "pose edits, scale 1": "90%",
    "pose edits, scale 0: PCK": "near chance",
}

PAGE = """# The puppets model in numbers

Made by `python -m zs2kit.puppets.evaluate --docs docs`; do not edit. All seeds are ones that training never
saw, the weights are those of the package (float16, run as float32), steps and guidance the command line's.

| what | measured | wanted |
| --- | --- | --- |
{rows}

Steps trained: {trained}. `python -m zs2kit.puppets.train --help` says how to train on.

- *Text*: 200 template and 50 hand-written prompts (`zs2kit/puppets/prompts.jsonl`), one picture each, read by
  a classifier that was trained on renders and reconstructions alone. Held-out triples: kind, colour and place
  each known, never seen together in training (the VAE, which knows no captions, saw some early on).
- *Pose edits*: clips of walking, waving, dancing and jumping figures at least 40% as high as the frame,
  edited by `zs2kit.edit` with the pose plugin; the detector's keypoints on the edited frames against the
  renderer's of the source (PCK@0.1: within a tenth of the figure's extent). Scale 0 shows what chance gives.

## A picture of every prompt; framed in red where kind, colour or place was misread

![250 pictures](puppets-text.jpg)

## Held-out renders, and what the VAE makes of them to their right

![reconstructions](puppets-vae.jpg)

## Pose edits, two clips of eight frames in a row

![pose edits](puppets-pose-1.jpg)

The same with scale 0:

![unsteered edits](puppets-pose-0.jpg)
"""


def draw_prompts(pipe: Any, prompts: list[Prompt], steps: int, guidance: float) -> Images:
    """One picture of each prompt; the number of the prompt is its seed."""
    images = []
    for i in range(0, len(prompts), 10):
        batch = prompts[i : i + 10]
        generators = [torch.Generator().manual_seed(i + k) for k in range(len(batch))]
        drawn = pipe(
            [prompt.prompt for prompt in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        ).images
        images.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(images)


def pose_edits(
    folder: Path, clips: int, scale: float, **settings: Any
) -> tuple[Images, Points, NDArray[np.intp]]:
    """Edit clips of moving figures: edited frames, true keypoints of their sources, what was asked for."""
    import zs2kit
    from zs2kit.clip import Clip
    from zs2kit_plugins.pose import Pose  # type: ignore[import-not-found, unused-ignore]

    prompts = [prompt for prompt in load_prompts() if prompt.source == "template"]
    model = zs2kit.Model.load(folder)
    frames, points, asked = [], [], []
    for i in range(clips):
        rng = np.random.default_rng((2, i))
        start = replace(scene(10_000 + i, "test"), height=float(rng.uniform(0.62, 0.9)))
        sources = [
            render(each, SIZE) for each in motion_scenes(start, MOTIONS[i % len(MOTIONS)], 8, travel=0.1)
        ]
        prompt = prompts[int(rng.integers(len(prompts)))]
        source = Clip.from_images([picture.image for picture in sources], 12)
        edited = zs2kit.edit(
            source, prompt.prompt, plugins=[Pose(scale=scale)], model=model, seed=i, **settings
        )
        for frame, picture in zip(edited, sources, strict=True):
            if body_heights(picture.keypoints[None])[0] >= 0.4 * SIZE:
                frames.append(frame.image)
                points.append(picture.keypoints)
                asked.append([names.index(getattr(prompt, group)) for group, names in GROUPS.items()])
    return np.stack(frames), np.stack(points), np.array(asked)


def measure(
    folder: Path, docs: Path | None, *, steps: int, guidance: float, pictures: int, clips: int
) -> Numbers:
    """All numbers of the model in `folder`; pictures go to `docs`."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    classifier = ResNetForImageClassification.from_pretrained(folder / "classifier").eval()
    detector = UNet2DModel.from_pretrained(folder / "detector").eval()
    renders = draw(range(pictures), "test")
    numbers: Numbers = {}

    decoded = reconstruct(pipe.vae, renders.images)
    numbers["VAE: PSNR of reconstructions, dB"] = psnr(renders.images, decoded)
    numbers |= shares(classify(classifier, renders.images) == renders.labels, "classifier, renders")
    numbers |= shares(classify(classifier, decoded) == renders.labels, "classifier, reconstructions")
    found = detect(detector, renders.images)
    numbers["detector, renders: PCK@0.05"] = float(correct(found, renders.keypoints, 0.05).mean())
    found = detect(detector, decoded)
    numbers["detector, reconstructions: PCK@0.05"] = float(correct(found, renders.keypoints, 0.05).mean())

    prompts = load_prompts()
    drawn = draw_prompts(pipe, prompts, steps, guidance)
    asked = np.array([[names.index(getattr(p, g)) for g, names in GROUPS.items()] for p in prompts])
    right = classify(classifier, drawn) == asked
    for name in ("template", "hand"):
        chosen = np.array([prompt.source == name for prompt in prompts])
        numbers |= shares(right[chosen], f"text, {name} prompts")
    held = np.array([is_held_out(prompt.kind, prompt.colour, prompt.place) for prompt in prompts])
    numbers |= shares(right[held], "text, held-out triples")
    if docs:
        save_picture(docs / "puppets-text.jpg", grid(drawn, 20, ~right.all(axis=1)))
        pairs = np.stack([renders.images[:24], decoded[:24]], axis=1).reshape(-1, *renders.images.shape[1:])
        save_picture(docs / "puppets-vae.jpg", grid(pairs, 12))

    for scale in (1.0, 0.0) if clips else ():
        edited, points, wanted = pose_edits(
            folder, clips, scale, num_inference_steps=steps, guidance_scale=guidance
        )
        right = classify(classifier, edited) == wanted
        name = f"pose edits, scale {scale:g}"
        near = correct(detect(detector, edited), points, 0.1)
        numbers[f"{name}: PCK@0.1"] = float(near.mean())
        numbers |= shares(right, name)
        if docs:
            save_picture(docs / f"puppets-pose-{scale:g}.jpg", grid(edited, 16, ~right.all(axis=1)))
    return numbers


def write_page(page: Path, numbers: Numbers, steps: dict[str, int]) -> None:
    """The numbers, what they are to reach, and the pictures, as Markdown."""
    rows = [f"| {name} | {shown(name, value)} | {wanted(name)} |" for name, value in numbers.items()]
    trained = ", ".join(f"{name} {count:,}" for name, count in steps.items())
    page.write_text(PAGE.format(rows="\n".join(rows), trained=trained))


def shown(name: str, value: float) -> str:
    """A number as the page shows it."""
    return f"{value:.2f}" if "dB" in name else f"{value:.1%}"


def wanted(name: str) -> str:
    """What a number is to reach at least, if anything."""
    return next((least for start, least in WANTED.items() if name.startswith(start)), "")


@click.command(help=__doc__)
@click.option(
    "--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="The diffusers folder to measure."
)
@click.option("--docs", type=click.Path(path_type=Path), help="Folder for puppets.md and its pictures.")
@click.option("--steps", default=20, show_default=True)
@click.option("--guidance", default=5.0, show_default=True)
@click.option("--pictures", default=512, show_default=True, help="Held-out renders.")
@click.option(
    "--clips", default=16, show_default=True, help="Clips of 8 frames for the pose edits; 0 skips them."
)
def main(weights: Path, docs: Path | None, **options: Any) -> None:
    """Print every number, and write them and the pictures to ``docs``."""
    numbers = measure(weights, docs, **options)
    for name, value in numbers.items():
        print(f"{name:45s} {shown(name, value):>8s}   {wanted(name)}")
    if docs:
        write_page(docs / "puppets.md", numbers, json.loads((weights / "training.json").read_text()))


if __name__ == "__main__":
    main()
