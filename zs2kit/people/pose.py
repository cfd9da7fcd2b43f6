"""Find people's postures, 33 points each, and their silhouettes, in every frame by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .detection import MARGIN, Region, detect
from .network import WEIGHTS, Network

if TYPE_CHECKING:
    from zs2kit.clip import Clip

POINTS = 33  # of BlazePose: 0 is the nose, 11 the left shoulder, 12 the right one, 31 and 32 are the toes
FIRST = 8  # frames of a clip that say whether it shows people
PRESENT = 0.8  # the least probability that a region shows a person
LEAST = 0.2  # of the picture's shorter side; smaller people may be missed (`python -m zs2kit.bench people`)


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody in a picture."""

    points: NDArray[np.float32]  # (33, 3): x and y in pixels, where 0 is the middle of the first; visibility
    score: float  # how probable it is that this is a person
    region: Region  # the square around the points
    number: int | None = None  # who it is, where a `Tracker` has said so

    @property
    def height(self) -> float:
        """How tall the person would be upright, in pixels."""
        return self.region.side / MARGIN


@cache
def network(name: str, device: str = "cpu") -> Network:
    """Return the bundled network called ``name``, which is loaded once."""
    return Network(WEIGHTS / f"{name}.safetensors", device)


def find_people(frames: Iterable[NDArray[np.uint8]], device: str = "cpu") -> list[list[Person]]:
    """Find the people on RGB frames, each (height, width, 3): a list for each frame, the surest person first.

    A frame's people depend on that frame alone. Who is less tall than `LEAST` of the picture's shorter side
    may be missed. For the frames of a clip, `Tracker.follow` takes far less time.
    """
    return [look(frame, device, fine=True) for frame in frames]


def shows_people(clip: Clip, device: str = "cpu") -> bool:
    """Whether people are seen in at least half of a clip's first frames.

    It is False for a clip that can be iterated over only once, since looking would take its frames away.
    """
    if clip.blank or isinstance(clip.frames, Iterator):
        return False
    # Not finely: small parts of drawn figures may pass for people.
    seen = [bool(look(frame.image, device)) for frame in islice(clip, FIRST)]
    return sum(seen) * 2 >= max(1, len(seen))


def silhouette(
    image: NDArray[np.uint8], people: Sequence[Person], device: str = "cpu"
) -> NDArray[np.float32]:
    """Tell which pixels of an RGB image (height, width, 3) are those of ``people`` found on it.

    Returns (height, width) in 0..1, the probability that a pixel shows one of them; cut it at 0.5.
    """
    mask = np.zeros(image.shape[:2], np.float32)
    regions = [person.region for person in people]
    if regions:
        image = np.ascontiguousarray(image)
        (logits,) = _run(network("landmarks", device), image, regions, "shape")
        for region, shape in zip(regions, logits[:, 0].sigmoid().cpu().numpy(), strict=True):
            mask = np.maximum(mask, region.paste(shape, *image.shape[:2]))
    return mask


def look(
    image: NDArray[np.uint8], device: str, known: Sequence[Person] = (), fine: bool = False
) -> list[Person]:
    """Find those people in an RGB image (height, width, 3) who aren't ``known``, the surest first.

    fine: whether to look for small people, too, which takes longer.
    """
    image = np.ascontiguousarray(image)
    landmarks = network("landmarks", device)
    regions = [each.region for each in detect(network("detector", device), image, fine)]
    # The detector's region is rough. Points found on it make up a better one, as in a clip those of the frame
    # before would.
    rough = read_people(landmarks, image, regions)
    people = read_people(landmarks, image, [each.region for each in rough])
    sure = [each for each in people if each.score >= PRESENT]
    return distinct([*known, *sure])[len(known) :]


def distinct(people: Iterable[Person]) -> list[Person]:
    """Return ``people`` without those who were found twice; the first of such two stays."""
    found: list[Person] = []
    for person in people:
        if not any(_same(person.region, other.region) for other in found):
            found.append(person)
    return found


def _same(one: Region, other: Region) -> bool:
    """Whether two regions are one person's: alike in size, and the smaller one's circle in the other's."""
    smaller, larger = sorted((one.side / 2, other.side / 2))
    apart = math.hypot(one.x - other.x, one.y - other.y)
    return larger <= 2.2 * smaller and apart + smaller <= 1.15 * larger


def read_people(landmarks: Network, image: NDArray[np.uint8], regions: Sequence[Region]) -> list[Person]:
    """Find the points of whoever is in each of ``regions``, and the region that these points make up."""
    if not regions:
        return []
    raw, presence = _run(landmarks, image, regions, "points", "presence")
    people = []
    for region, numbers, score in zip(
        regions, raw.double().cpu().numpy(), presence.flatten().tolist(), strict=True
    ):
        values = numbers.reshape(-1, 5)  # x, y, depth, logits of being seen and of being there
        places = region.place(values[:, :2] / landmarks.size)
        visible = 1 / (1 + np.exp(-values[:, 3].clip(-50, 50)))
        points = np.column_stack([places, visible])[:POINTS].astype(np.float32)
        # The network gives more points than the body has: the next two are the middle of a circle around the
        # person and a place on it.
        people.append(Person(points, score, Region.around(places[POINTS], places[POINTS + 1])))
    return people


def _run(
    landmarks: Network, image: NDArray[np.uint8], regions: Sequence[Region], *outputs: str
) -> list[Tensor]:
    cuts = torch.from_numpy(np.stack([region.cut(image, landmarks.size) for region in regions]))
    return landmarks(cuts.permute(0, 3, 1, 2).float() / 255, *outputs)
