"""What a clip of the puppets world is judged by: what was asked for, steadiness, motion, the source's truth.

`Judge` gives the numbers of one clip by name. A number that can't be had of it, such as the kind's where the
prompt leaves the kind open, is missing rather than made up: average each over the clips that have it.
`figures found` and `keypoints found` are always there and say how much the others rest on. No number stands
alone: a still is perfectly steady, and what reads the frames errs too. `true_clip` renders clips of the same
world, and the numbers that the judge gives those are what can be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zs2kit.errors import ClipError, UsageError
from zs2kit.metrics import to_float, to_lab

from .detector import detect
from .estimator import estimate
from .networks import GROUPS, SIZE
from .pictures import scene
from .train import WEIGHTS
from .world import MOTIONS, Picture, motion_scenes, render
from .yardsticks import Images, Numbers, Points, body_heights, classify, correct, load_classifier, load_reader

Labels = NDArray[np.intp]  # (frames, 3): numbers into `GROUPS`, NOTHING where there is no figure
Masks = NDArray[np.bool_]  # (frames, SIZE, SIZE), True on the figure
Lab = NDArray[np.float32]  # (frames, SIZE, SIZE, 3), CIE L*a*b*: distances are Delta E (1976)

NOTHING = -1
LEAST = 0.01  # share of the frame that a figure covers at least; the smallest of 300 scenes covers 0.089


class Judge:
    """Measures clips of the puppets world; loaded once, used for any number of them."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        """Load what reads kind, colour, place, keypoints and mask off frames from ``folder``."""
        self.classifier = load_classifier(folder)
        self.detector = load_reader(folder, "detector")
        self.estimator = load_reader(folder, "estimator")

    def __call__(
        self, frames: Images, asked: Mapping[str, str], truth: Sequence[Picture] | None = None
    ) -> Numbers:
        """Return the numbers of a clip (frames, SIZE, SIZE, 3) of RGB bytes by name.

        asked: what the prompt names, such as {"kind": "robot", "place": "beach"}; groups that it leaves open
        are missing. truth: the rendered pictures of which the clip is an edit, one for each frame.

        Always:
          figures found: share of frames that show a figure. The others count as wrong in kind and colour.
          keypoints found: share of the 18 keypoints of all frames; motion is that of those found.
        Where the prompt asks for it (shares of frames, 0..1):
          kind right, colour right, place right; text right: all that is asked for is right in one frame.
        From two frames on:
          kind flips, colour flips, place flips: neighbours that read differently, per 100 transitions.
          Coming and going of the figure is a flip of kind and colour.
          colour drift to neighbour, colour drift to first: Delta E of the figure's mean colour.
          background change: mean Delta E of neighbours' pixels that show the figure in neither of them.
          motion: median length of the keypoints' steps from frame to frame, in figure heights.
          From three on: jitter, the same of the second differences, and smooth motion, what is left of
          motion once jitter is taken out (see `motion`).
        Where there is truth:
          PCK@0.1: share of the true keypoints that were found within a tenth of the figure's height.
          pose error: mean distance of those found at all, in figure heights.
          background psnr: in dB, of pixels that show no figure before and after; of use where the edit was to
          keep the place.

        Raises `ClipError` for frames of another shape or number, `UsageError` for words that the world
        doesn't have.
        """
        if frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3) or not len(frames):
            raise ClipError(f"the judge takes frames of {SIZE}x{SIZE} pixels, not an array of {frames.shape}")
        if truth is not None and len(truth) != len(frames):
            raise ClipError(f"{len(frames)} frames can't be compared with {len(truth)} true pictures")
        masks = estimate(self.estimator, frames)[1] >= 0.5
        points = detect(self.detector, frames)
        found = masks.mean(axis=(1, 2)) >= LEAST
        labels = classify(self.classifier, frames)
        labels[~found, :2] = NOTHING
        pixels = np.stack([to_lab(to_float(frame)) for frame in frames])
        numbers = {
            "figures found": float(found.mean()),
            "keypoints found": float((points[..., 2] > 0).mean()),
            **right(labels, asked),
            **flips(labels),
            **colour_drift(pixels, masks & found[:, None, None]),
            **motion(points),
        }
        figures = masks
        if truth is not None:
            figures = masks | np.stack([picture.mask for picture in truth])
            sources = np.stack([picture.image for picture in truth])
            numbers |= pose(points, np.stack([picture.keypoints for picture in truth]))
            numbers |= background_kept(frames, sources, figures)
        return numbers | background_change(pixels, figures)


def right(labels: Labels, asked: Mapping[str, str]) -> Numbers:
    """In which share of frames what was asked for is to be read, each and all together."""
    numbers: Numbers = {}
    good = np.ones(len(labels), bool)
    for group, word in asked.items():
        if group not in GROUPS or word not in GROUPS[group]:
            raise UsageError(f"the puppets world has no {group} '{word}'")
        same = labels[:, list(GROUPS).index(group)] == GROUPS[group].index(word)
        numbers[f"{group} right"] = float(same.mean())
        good &= same
    return {**numbers, "text right": float(good.mean())} if asked else {}


def flips(labels: Labels) -> Numbers:
    """How many of 100 transitions change the kind, the colour, the place.

    No figure in any frame: then nothing is known of kind and colour.
    """
    if len(labels) < 2:
        return {}
    known = (labels != NOTHING).any(axis=0)
    per_hundred = 100 * (labels[1:] != labels[:-1]).mean(axis=0)
    return {f"{group} flips": float(per_hundred[i]) for i, group in enumerate(GROUPS) if known[i]}


def colour_drift(pixels: Lab, masks: Masks) -> Numbers:
    """How far the figure's mean colour is from that in the frame before, and in the first.

    Frames that don't show it are passed over.
    """
    means = [each[mask].mean(axis=0) for each, mask in zip(pixels, masks, strict=True) if mask.any()]
    if len(means) < 2:
        return {}
    steps, ways = np.diff(means, axis=0), np.array(means[1:]) - means[0]
    return {
        "colour drift to neighbour": float(np.linalg.norm(steps, axis=1).mean()),
        "colour drift to first": float(np.linalg.norm(ways, axis=1).mean()),
    }


def background_change(pixels: Lab, figures: Masks) -> Numbers:
    """How much neighbouring frames differ where neither shows the figure."""
    outside = ~(figures[1:] | figures[:-1])
    differences = np.linalg.norm(np.diff(pixels, axis=0), axis=-1)
    changes = [each[mask].mean() for each, mask in zip(differences, outside, strict=True) if mask.any()]
    return {"background change": float(np.mean(changes))} if changes else {}


def background_kept(frames: Images, sources: Images, figures: Masks) -> Numbers:
    """PSNR of what shows no figure, all frames together; 100 for what is equal."""
    difference = (frames.astype(np.float32) - sources)[~figures] / 255
    if not difference.size:
        return {}
    return {"background psnr": float(min(100, -10 * np.log10(max(np.square(difference).mean(), 1e-10))))}


def pose(points: Points, true: Points) -> Numbers:
    """How far keypoints (frames, 18, 3) are from the true ones."""
    distance = np.linalg.norm(points[..., :2] - true[..., :2], axis=-1) / body_heights(true)[:, None]
    seen = points[..., 2] > 0
    numbers = {"PCK@0.1": float(correct(points, true, 0.1).mean())}
    return {**numbers, "pose error": float(distance[seen].mean())} if seen.any() else numbers


def motion(points: Points) -> Numbers:
    """How much keypoints (frames, 18, 3) move, how much of that is jitter, and what is left without it.

    A point that only trembles, by s pixels along x and y, steps by sqrt(2) s and has second differences of
    sqrt(6) s: jitter is sqrt(3) times motion. A point that moves steadily has next to none. So smooth motion
    is sqrt(motion^2 - jitter^2 / 3): 0 for mere trembling, nearly motion itself for real clips.
    """
    seen = points[..., 2] > 0
    enough = seen.mean(axis=1) >= 0.5  # to tell the figure's height
    if not enough.any():
        return {}
    places = np.where(seen[..., None], points[..., :2], np.nan)
    extents = np.nanmax(places[enough], axis=1) - np.nanmin(places[enough], axis=1)
    places /= np.median(extents.max(axis=1))
    steps, bends = (np.linalg.norm(np.diff(places, order, axis=0), axis=-1) for order in (1, 2))
    steps, bends = steps[np.isfinite(steps)], bends[np.isfinite(bends)]
    numbers: Numbers = {}
    if steps.size:
        numbers["motion"] = float(np.median(steps))
    if bends.size:
        numbers["jitter"] = float(np.median(bends))
        numbers["smooth motion"] = float(max(0, numbers["motion"] ** 2 - numbers["jitter"] ** 2 / 3) ** 0.5)
    return numbers


def true_clip(number: int, frames: int, *, travel: float = 0.1, fps: float = 12.0) -> list[Picture]:
    """Render a clip: a large figure of scene ``number`` that walks, waves, dances or jumps in turn.

    The place stands still, the figure travels by ``travel`` frame widths a second. Training never saw these
    scenes.
    """
    rng = np.random.default_rng((2, number))
    start = replace(scene(10_000 + number, "test"), height=float(rng.uniform(0.62, 0.9)))
    moving = motion_scenes(start, MOTIONS[number % len(MOTIONS)], frames, fps=fps, travel=travel)
    return [render(each, SIZE) for each in moving]


def truly_asked(clip: Sequence[Picture]) -> dict[str, str]:
    """What a prompt that names all that a rendered clip shows asks for."""
    return {group: getattr(clip[0].scene, group) for group in GROUPS}
