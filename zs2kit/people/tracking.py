"""Follow people from frame to frame: where they are, who is who, and points that go smoothly."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zs2kit.errors import notify

from .detection import Region
from .pose import LEAST, Person, distinct, look, network, read_people

if TYPE_CHECKING:
    from zs2kit.clip import Chunk

STILL_THERE = 0.5  # the least probability that somebody is still where they were
COARSE = 0.15  # seconds after which the picture is looked at again,
FINE = 1.0  # and after which small people are looked for, too
NEAR = 0.3  # how far somebody's points may go in a frame, on average, by the side of the region
PATIENCE = 0.5  # seconds for which somebody may be out of sight
CUTOFF = 3.0  # hertz: of what stands still, only slower changes are let through
HASTE = 15.0  # hertz by which that rises for each region's side that is crossed in a second
SPEED_CUTOFF = 1.0  # hertz, of the speed itself


@dataclass
class Track:
    """What is remembered of a person."""

    number: int
    region: list[float]  # where to look for the person: middle (x, y), side and angle
    missed: int  # frames since the person was last seen
    seen: list[list[float]]  # the points as they were found there: x, y, visibility
    smooth: list[list[float]]  # the same, smoothed
    speed: list[list[float]]  # of these, in a second


class Tracker:
    """Finds, numbers and smooths the people of a shot, one frame after another.

    Whoever is found is looked for at the same place in the next frame, which is quick. The whole picture is
    searched several times a second, and whenever somebody is lost; for small people, once a second. So people
    who come later may be found some frames late. A tracker that is made with another's ``state``, a tensor of
    bytes, goes on where that one was, and what comes out is to the bit what it would have been.
    """

    def __init__(
        self,
        rate: float,
        smooth: bool = True,
        state: Tensor | None = None,
        device: str = "cpu",
        alone: bool = False,
    ) -> None:
        """rate: frames in a second; smooth: whether to steady points; alone: follow only the leader."""
        self.rate, self.smooth, self.device, self.alone = rate, smooth, device, alone
        known = {} if state is None else json.loads(state.cpu().numpy().tobytes())
        self._frames: int = known.get("frames", 0)  # that were seen
        self._next: int = known.get("next", 0)
        self._leader: int | None = known.get("leader")
        self._tracks = [Track(**track) for track in known.get("tracks", [])]

    @property
    def state(self) -> Tensor:
        """All that the tracker knows, as bytes."""
        known = {
            "frames": self._frames,
            "next": self._next,
            "leader": self._leader,
            "tracks": [asdict(track) for track in self._tracks],
        }
        return torch.frombuffer(bytearray(json.dumps(known).encode()), dtype=torch.uint8)

    def follow(self, frame: NDArray[np.uint8]) -> list[Person]:
        """Find the people on the next RGB frame (height, width, 3), and return them with their numbers."""
        frame = np.ascontiguousarray(frame)
        regions = [
            Region(*track.region)
            for track in self._tracks
            if not track.missed and (not self.alone or track.number == self._leader)
        ]
        landmarks = network("landmarks", self.device)
        read = read_people(landmarks, frame, regions)
        people = distinct(person for person in read if person.score >= STILL_THERE)
        fine = self._frames % max(1, round(FINE * self.rate)) == 0
        coarse = not self.alone and self._frames % max(1, round(COARSE * self.rate)) == 0
        if fine or coarse or len(people) < len(regions) or not people:
            people += look(frame, self.device, people, fine)
        return self.link(people)

    def link(self, people: Sequence[Person]) -> list[Person]:
        """Return the people of the next frame with their numbers; nobody is left out, and nobody is added."""
        self._frames += 1
        tracks = dict(self._match(people))
        self._tracks = [
            replace(track, missed=track.missed + 1)
            for track in self._tracks
            if track not in tracks.values() and track.missed + 1 <= PATIENCE * self.rate
        ]
        followed = []
        for index, person in enumerate(people):
            track = self._go_on(tracks.get(index), person)
            self._tracks.append(track)
            points = np.array(track.smooth, np.float32) if self.smooth else person.points
            followed.append(replace(person, points=points, number=track.number))
        if followed and self._leader not in [track.number for track in self._tracks]:
            self._leader = max(followed, key=lambda person: person.region.side).number
        return followed

    def leader(self) -> NDArray[np.float32] | None:
        """Return the points (33, 3) of one of the people; None if there is nobody.

        It is the largest at first, and the same one for as long as that one is remembered, even where unseen:
        the points are then those of the last time.
        """
        for track in self._tracks:
            if track.number == self._leader:
                return np.array(track.smooth if self.smooth else track.seen, np.float32)
        return None

    def _match(self, people: Sequence[Person]) -> list[tuple[int, Track]]:
        """Pair people with tracks, those first who are nearest to where they were."""
        near = []
        for index, person in enumerate(people):
            for track in self._tracks:
                offsets = person.points[:, :2] - np.array(track.seen)[:, :2]
                apart = float(np.linalg.norm(offsets, axis=1).mean()) / track.region[2]
                if apart < NEAR * math.sqrt(1 + track.missed):
                    near.append((apart, index, track.number))
        by_number = {track.number: track for track in self._tracks}
        pairs: dict[int, Track] = {}
        for _, index, number in sorted(near):
            if index not in pairs and number in by_number:
                pairs[index] = by_number.pop(number)
        return list(pairs.items())

    def _go_on(self, track: Track | None, person: Person) -> Track:
        side, seen = person.region.side, person.points.astype(np.float64)
        if track is None:
            self._next += 1
            smooth, speed, number = seen, np.zeros_like(seen), self._next - 1
        else:
            number, rate = track.number, self.rate / (1 + track.missed)
            scale = np.array([side, side, 1.0])  # of a point's three numbers, so that size doesn't matter
            smooth, speed = one_euro(
                seen / scale, np.array(track.smooth) / scale, np.array(track.speed) / scale, rate
            )
            smooth, speed = smooth * scale, speed * scale
        region = [person.region.x, person.region.y, side, person.region.angle]
        return Track(number, region, 0, seen.tolist(), smooth.tolist(), speed.tolist())


def tell_small(plugin: str, people: Sequence[Person], chunk: Chunk, index: int) -> bool:
    """Send a notice if people are so small that others may be missed; return whether it was sent."""
    assert chunk.fit is not None
    least, smallest = LEAST * min(chunk.fit.source), min((each.height for each in people), default=math.inf)
    if smallest > 1.25 * least:
        return False
    notify(
        "small-people",
        f"{plugin}: somebody in frame {index} is about {smallest:.0f} pixels tall, and people of less than "
        f"{least:.0f} may be missed",
        "crop the clip to the people",
    )
    return True


def one_euro(
    values: NDArray[np.float64],
    before: NDArray[np.float64],
    speed: NDArray[np.float64],
    rate: float,
    cutoff: float = CUTOFF,
    haste: float = HASTE,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth ``values``, what is slow more than what is fast: return them and their speed in a second.

    ``before`` and ``speed`` are what this returned 1/``rate`` seconds ago. It is the One Euro filter (Casiez,
    Roussel and Vogel, CHI 2012): a low pass whose cutoff is ``cutoff`` + ``haste`` * |speed|.
    """
    speed = speed + _share(SPEED_CUTOFF, rate) * ((values - before) * rate - speed)
    return before + _share(cutoff + haste * np.abs(speed), rate) * (values - before), speed


def _share(cutoff: Any, rate: float) -> Any:
    """How much of a step a low pass takes at once."""
    return 1 / (1 + rate / (2 * math.pi * cutoff))
