"""Scenes to train on and to judge by, each known by its number, and what is kept of them on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas
from .captions import is_held_out
from .human import human_pose
from .networks import GROUPS, SIZE
from .places import PLACES, paint
from .world import Scene, random_scene, render

SHARD = 2048  # pictures a file
SPLITS = ("train", "test")


class Shard(NamedTuple):
    """Pictures with what is to be seen on them."""

    images: NDArray[np.uint8]  # (pictures, SIZE, SIZE, 3)
    keypoints: NDArray[np.float32]  # (pictures, 18, 3)
    labels: NDArray[np.uint8]  # (pictures, 3): number of the kind, the colour and the place


def scene(number: int, split: str = "train", *, human: bool = False) -> Scene:
    """The scene of this number; ``human`` is whether the figure stands as a person might.

    Scenes to train on are never of a held-out triple; the others are of any.
    """
    rng = np.random.default_rng((SPLITS.index(split), number))

    def any_scene() -> Scene:
        return random_scene(rng, pose=human_pose(rng) if human else None)

    found = any_scene()
    while split == "train" and is_held_out(found.kind, found.colour, found.place):
        found = any_scene()
    return found


def draw(numbers: range, split: str = "train", *, human: bool = False) -> Shard:
    """Render the scenes of these numbers."""
    images = np.empty((len(numbers), SIZE, SIZE, 3), np.uint8)
    keypoints = np.empty((len(numbers), 18, 3), np.float32)
    labels = np.empty((len(numbers), len(GROUPS)), np.uint8)
    for i, number in enumerate(numbers):
        shown = scene(number, split, human=human)
        picture = render(shown, SIZE)
        images[i], keypoints[i] = picture.image, picture.keypoints
        labels[i] = [names.index(getattr(shown, group)) for group, names in GROUPS.items()]
    return Shard(images, keypoints, labels)


def shard(work: Path, index: int) -> Shard:
    """The pictures number index * SHARD and on, drawn once and mapped from disk from then on."""
    folder = work / "pictures"
    paths = [folder / f"{index:05d}.{name}.npy" for name in Shard._fields]
    if not all(path.exists() for path in paths):
        drawn = draw(range(index * SHARD, (index + 1) * SHARD))
        for path, name in zip(paths, Shard._fields, strict=True):
            save_array(path, getattr(drawn, name))
    return Shard(*(np.load(path, mmap_mode="r") for path in paths))


def maps(work: Path, index: int) -> NDArray[np.uint8]:
    """Depth (255 = near) and mask (255 = figure) of these pictures, (SHARD, SIZE, SIZE, 2), kept likewise."""
    path = work / "maps" / f"{index:05d}.npy"
    if not path.exists():
        save_array(path, draw_maps(range(index * SHARD, (index + 1) * SHARD)))
    return np.asarray(np.load(path, mmap_mode="r"))


def draw_maps(numbers: range, split: str = "train") -> NDArray[np.uint8]:
    """Depth and mask of the scenes of these numbers, (pictures, SIZE, SIZE, 2)."""
    drawn = np.empty((len(numbers), SIZE, SIZE, 2), np.uint8)
    for i, number in enumerate(numbers):
        picture = render(scene(number, split), SIZE)
        drawn[i, ..., 0] = np.rint(picture.depth * 255)
        drawn[i, ..., 1] = picture.mask * 255
    return drawn


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    os.replace(partial, path)


def latents(
    work: Path, folder: str = "latents"
) -> list[tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.uint8]]]:
    """What is cached so far: latents (SHARD, 4, SIZE / 8, SIZE / 8), keypoints and labels of each shard."""
    names = sorted(path.name.split(".")[0] for path in (work / folder).glob("*.labels.npy"))
    return [
        tuple(
            np.load(work / folder / f"{name}.{part}.npy", mmap_mode="r")
            for part in ("latents", "keypoints", "labels")
        )
        for name in names
    ]


def reconstructions(work: Path) -> list[NDArray[np.uint8]]:
    """The pictures of the first shards as the VAE decodes them, if there are any yet."""
    return [np.load(path, mmap_mode="r") for path in sorted((work / "reconstructions").glob("*.npy"))]


def empty_places(work: Path, count: int) -> NDArray[np.uint8]:
    """Places with nobody in them: (count, SIZE, SIZE, 3)."""
    path = work / "pictures" / "empty.npy"
    if not path.exists():
        save_array(path, np.stack([_empty_place(i, Canvas(SIZE)) for i in range(count)]))
    return np.asarray(np.load(path))


def empty_maps(index: int) -> NDArray[np.uint8]:
    """Depth and mask of the place of this number with nobody in it: (SIZE, SIZE, 2)."""
    drawn: NDArray[np.float32] = _empty_place(index, Canvas(SIZE, maps=True))
    return np.rint(drawn * 255).astype(np.uint8)


def _empty_place(index: int, canvas: Canvas) -> NDArray[Any]:
    paint(canvas, PLACES[index % len(PLACES)], index, 0.0)
    return np.asarray(canvas.finish())
