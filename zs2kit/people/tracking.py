"""Follow people from frame to frame: who is who, and points that go smoothly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pose import Person

NEAR = 0.3  # how far somebody's points may go in a frame, on average, by the side of the region
PATIENCE = 0.5  # seconds for which somebody may be out of sight
CUTOFF = 3.0  # hertz: of what stands still, only slower changes are let through
HASTE = 15.0  # hertz by which that rises for each region's side that is crossed in a second
SPEED_CUTOFF = 1.0  # hertz, of the speed itself


@dataclass
class Track:
    """What is remembered of a person."""

    number: int
    side: float  # of the region, in pixels
    missed: int  # frames since the person was last seen
    seen: list[list[float]]  # the points as they were found there: x, y, visibility
    smooth: list[list[float]]  # the same, smoothed
    speed: list[list[float]]  # of these, in a second


class Tracker:
    """Numbers people, and smooths their points if asked to, one frame after another.

    ``state`` is plain data, as JSON takes it. A tracker that is made with the state of another goes on where
    that one was, and what comes out is to the bit what it would have been.
    """

    def __init__(self, rate: float, smooth: bool = True, state: Mapping[str, Any] | None = None) -> None:
        self.rate = rate  # frames in a second
        self.smooth = smooth
        self._next: int = state["next"] if state else 0
        self._leader: int | None = state["leader"] if state else None
        self._tracks = [Track(**track) for track in state["tracks"]] if state else []

    @property
    def state(self) -> dict[str, Any]:
        """All that the tracker knows, as plain data."""
        return {
            "next": self._next,
            "leader": self._leader,
            "tracks": [asdict(track) for track in self._tracks],
        }

    def follow(self, people: Sequence[Person]) -> list[Person]:
        """Return the people of the next frame with their numbers; nobody is left out, and nobody is added."""
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
        return followed

    def leader(self, people: Sequence[Person]) -> NDArray[np.float32] | None:
        """Return the points (33, 3) of one of those that `follow` returned; None if there is nobody.

        It is the largest at first, and the same one for as long as that one is remembered, even where unseen:
        the points are then those of the last time.
        """
        known = {track.number: track for track in self._tracks}
        if self._leader not in known:
            largest = max(people, key=lambda person: person.region.side, default=None)
            self._leader = None if largest is None else largest.number
        if self._leader is None:
            return None
        track = known[self._leader]
        return np.array(track.smooth if self.smooth else track.seen, np.float32)

    def _match(self, people: Sequence[Person]) -> list[tuple[int, Track]]:
        """Pair people with tracks, those first who are nearest to where they were."""
        near = []
        for index, person in enumerate(people):
            for track in self._tracks:
                offsets = person.points[:, :2] - np.array(track.seen)[:, :2]
                apart = float(np.linalg.norm(offsets, axis=1).mean()) / track.side
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
        return Track(number, side, 0, seen.tolist(), smooth.tolist(), speed.tolist())


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
