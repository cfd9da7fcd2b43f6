"""Find people's postures, 33 points each, and their silhouettes, in every frame by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .detection import Region, detect
from .network import WEIGHTS, Network

if TYPE_CHECKING:
    from zs2kit.clip import Clip

POINTS = 33  # of BlazePose: 0 is the nose, 11 the left shoulder, 12 the right one, 31 and 32 are the toes
FIRST = 8  # frames of a clip that say whether it shows people
PRESENT = 0.5  # the least probability that a region shows a person


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody in a picture."""

    points: NDArray[np.float32]  # (33, 3): x and y in pixels, where 0 is the middle of the first; visibility
    score: float  # how probable it is that this is a person
    region: Region
    number: int | None = None  # who it is, where a `Tracker` has said so


@cache
def network(name: str, device: str = "cpu") -> Network:
    """Return the bundled network called ``name``, which is loaded once."""
    return Network(WEIGHTS / f"{name}.safetensors", device)


def find_people(frames: Iterable[NDArray[np.uint8]], device: str = "cpu") -> list[list[Person]]:
    """Find the people on RGB frames, each (height, width, 3): a list for each frame, the surest person first.

    A frame's people depend on that frame alone. Who is less tall than a quarter of the picture's shorter side
    may be missed.
    """
    return [_find(np.ascontiguousarray(frame), device) for frame in frames]


def shows_people(clip: Clip, device: str = "cpu") -> bool:
    """Whether people are seen in at least half of a clip's first frames.

    It is False for a clip that can be iterated over only once, since looking would take its frames away.
    """
    if clip.blank or isinstance(clip.frames, Iterator):
        return False
    people = find_people((frame.image for frame in islice(clip, FIRST)), device)
    return sum(map(bool, people)) * 2 >= max(1, len(people))


def silhouette(frames: Iterable[NDArray[np.uint8]], device: str = "cpu") -> NDArray[np.float32]:
    """Tell which pixels of RGB frames (height, width, 3) are people's: (frames, height, width) in 0..1.

    It is the probability that a pixel shows somebody whom `find_people` finds; cut it at 0.5.
    """
    masks = []
    for frame in frames:
        frame = np.ascontiguousarray(frame)
        mask = np.zeros(frame.shape[:2], np.float32)
        for person in _find(frame, device):
            (logits,) = _run(network("landmarks", device), frame, person.region, "shape")
            shape = logits[0, 0].sigmoid().cpu().numpy()
            mask = np.maximum(mask, person.region.paste(shape, *frame.shape[:2]))
        masks.append(mask)
    return np.stack(masks)


def _find(image: NDArray[np.uint8], device: str) -> list[Person]:
    found: list[Person] = []
    landmarks = network("landmarks", device)
    for detection in detect(network("detector", device), image):
        # The detector's region is rough. Points found on it make up a better one, as in a clip those of the
        # frame before would.
        person = read_points(landmarks, image, detection.region)
        if person.score >= PRESENT:
            person = read_points(landmarks, image, person.region)
        if person.score >= PRESENT and not any(_same(person.region, other.region) for other in found):
            found.append(person)
    return found


def read_points(landmarks: Network, image: NDArray[np.uint8], region: Region) -> Person:
    """Find the points of whoever is in ``region``, and the region that these points make up."""
    raw, presence = _run(landmarks, image, region, "points", "presence")
    values = raw.double().cpu().numpy().reshape(-1, 5)  # x, y, depth, logits of being seen and of being there
    places = region.place(values[:, :2] / landmarks.size)
    visible = 1 / (1 + np.exp(-values[:, 3].clip(-50, 50)))
    points = np.column_stack([places, visible])[:POINTS].astype(np.float32)
    # The network gives more points than the body has: the next two are the middle of a circle around the
    # person and a place on it.
    return Person(points, float(presence), Region.around(places[POINTS], places[POINTS + 1]))


def _run(landmarks: Network, image: NDArray[np.uint8], region: Region, *outputs: str) -> list[Tensor]:
    cut = torch.from_numpy(region.cut(image, landmarks.size))
    return landmarks(cut.permute(2, 0, 1)[None].float() / 255, *outputs)


def _same(one: Region, other: Region) -> bool:
    """Whether two regions are one person's: alike in size, and the smaller one's circle in the other's."""
    smaller, larger = sorted((one.side / 2, other.side / 2))
    apart = math.hypot(one.x - other.x, one.y - other.y)
    return larger <= 2.2 * smaller and apart + smaller <= 1.15 * larger
