"""How small people may be, and how many, to be found: those of a real clip, pasted into its scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import process_time
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit import io
from zs2kit.beside import write_beside
from zs2kit.people import Person, Tracker, find_people, silhouette

Image = NDArray[np.uint8]
HEIGHTS = (0.1, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.4, 0.6)  # of the picture's
EVERY = 10  # frames from one to the next of which people are cut out
ROWS = ((0.5, 0.2, 0.3), (0.97, 0.3, 0.45))  # of a crowd: where its feet are, and how tall people are
IN_A_ROW = 10


class Place(NamedTuple):
    """Where somebody was pasted: the middle, and the height, in pixels."""

    x: float
    y: float
    height: int

    def found_in(self, people: Sequence[Person]) -> bool:
        """Whether one of ``people`` is there, and about as tall."""
        return any(
            np.hypot(each.region.x - self.x, each.region.y - self.y) < 0.25 * self.height
            and 0.6 < each.height / self.height < 1.6
            for each in people
        )


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip's scene without its people, and the people cut out."""

    empty: Image  # (height, width, 3)
    people: Sequence[tuple[Image, NDArray[np.float32]]]  # each with the mask (height, width) in 0..1

    @classmethod
    def of(cls, path: Path) -> Scene:
        """Cut the people out of a clip whose camera stands still."""
        images = [frame.image for frame in islice(io.read(path), None, None, EVERY)]
        empty = np.median(images, axis=0).astype(np.uint8)
        people = []
        for image in images:
            for person in find_people([image])[0]:
                mask = silhouette(image, [person])
                rows, columns = (np.flatnonzero((mask > 0.5).any(axis=axis)) for axis in (1, 0))
                if len(rows) > 0.6 * person.height:  # somebody whole
                    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
                    people.append((image[part], mask[part]))
        return cls(empty, people)

    def paste(self, image: Image, number: int, height: int, x: float, feet: int) -> Place:
        """Draw somebody ``height`` pixels tall, the middle at ``x``, into ``image``; return where."""
        source, whole = self.people[number % len(self.people)]
        width = max(1, round(source.shape[1] * height / source.shape[0]))
        person, mask = (
            cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
            for each in (source, whole)
        )
        left, top = round(x - width / 2), feet - height
        across = slice(max(0, -left), image.shape[1] - left)  # of the person, what lies in the image
        part = image[top:feet, max(0, left) : left + width]
        part[:] = np.round(part + (person[:, across] - part) * mask[:, across, None])
        return Place(x, feet - height / 2, height)

    def crowd(self, seed: int) -> tuple[Image, list[Place]]:
        """Return a picture of twenty people in two rows, and where they are."""
        generator = np.random.default_rng(seed)
        image, (height, width, _) = self.empty.copy(), self.empty.shape
        places = []
        for feet, least, most in ROWS:
            for column in range(IN_A_ROW):
                number, tall = int(generator.integers(len(self.people))), generator.uniform(least, most)
                x = (column + 0.5 + generator.uniform(-0.1, 0.1)) * width / IN_A_ROW
                places.append(self.paste(image, number, round(tall * height), x, round(feet * height)))
        return image, places


def sizes(scene: Scene, tries: int) -> Iterator[str]:
    """Yield the rows of a table in Markdown: how many of so many people are found, by their height.

    Each is alone, anywhere in the picture.
    """
    generator = np.random.default_rng(0)
    height, width, _ = scene.empty.shape
    yield "| height of the picture | found |"
    yield "|---|---|"
    for share in HEIGHTS:
        found, tall = 0, round(share * height)
        for number in range(tries):
            image = scene.empty.copy()
            x, feet = generator.uniform(0.1, 0.9) * width, int(generator.integers(tall, height + 1))
            place = scene.paste(image, number, tall, x, feet)
            found += place.found_in(find_people([image])[0])
        yield f"| {share:.1%} | {found} of {tries} |"


def crowds(scene: Scene, count: int, strip: Path | None = None) -> Iterator[str]:
    """Yield a line for each of so many crowds, and draw those who are found in the first to ``strip``."""
    for seed in range(count):
        image, places = scene.crowd(seed)
        (people,) = find_people([image])
        found = sum(place.found_in(people) for place in places)
        yield f"crowd {seed}: {found} of {len(places)} found, {len(people) - found} found where nobody is"
        if strip and seed == 0:
            for person in people:
                for x, y, _ in person.points:
                    cv2.circle(image, (round(float(x)), round(float(y))), 5, (255, 0, 0), -1)
            write_beside(strip, cv2.imencode(strip.suffix, image[..., ::-1])[1].tobytes())


def pace(path: Path, frames: int) -> str:
    """Say what following people through a clip takes."""
    images = [frame.image for frame in islice(io.read(path), frames)]
    height, width, _ = images[0].shape
    said = f"{len(images)} frames of {width}x{height}, in one thread:"
    for alone, who in ((False, "everybody"), (True, "one person")):
        tracker = Tracker(30, alone=alone)
        began = process_time()
        found = sum(bool(tracker.follow(image)) for image in images)
        spent = process_time() - began
        said += f" {who} {1000 * spent / len(images):.0f} ms a frame, found in {found}."
    return said


def run(path: Path, tries: int, count: int, strip: Path | None) -> Iterator[str]:
    """Yield what is measured on a clip: `pace`, `crowds` and `sizes`."""
    cv2.setNumThreads(1)  # so that CPU seconds don't count threads that wait
    torch.set_num_threads(1)
    yield pace(path, 149)
    scene = Scene.of(path)
    yield from crowds(scene, count, strip)
    yield from sizes(scene, tries)
