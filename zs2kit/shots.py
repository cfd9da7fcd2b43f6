"""Shots: where a clip cuts from one scene to another, found while it is read or given."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import product, repeat

import cv2
import numpy as np
from numpy.typing import NDArray

from zs2kit.clip import Clip, Frame
from zs2kit.settings import Cuts

log = logging.getLogger(__name__)

LOOK_AHEAD = 2  # frames: a change counts by how far it exceeds those around it, and a flash is over by then
# The mean difference of hue, saturation and value, of 255, that a cut has at least. In the samples and two
# real clips even frames five apart differ by 18 at most; of 60 pairs of puppets' scenes 58 by over 25.
LEAST = 20.0
SIDE = 256  # pixels of the longer side, at which frames are compared


def shots(clip: Clip, cuts: Cuts) -> Iterator[tuple[int, Frame]]:
    """Yield the frames of ``clip``, each after the position of the first frame of its shot.

    cuts: "auto", or the times in seconds, on the clip's own clock, at each of which the nearest frame begins
    a shot. A clip of text alone has none. Detection reads `LOOK_AHEAD` frames ahead.
    """
    if clip.blank:
        cuts = ()
    first = 0
    for index, (frame, cut) in enumerate(_detected(clip) if cuts == "auto" else _given(clip, cuts)):
        if cut:
            first = index
            log.info("a shot begins at frame %d, %.2f s", index, frame.pts * clip.time_base)
        yield first, frame


def _given(clip: Clip, cuts: Cuts) -> Iterator[tuple[Frame, bool]]:
    # As in `read`, floats count to the microsecond.
    times = sorted(Fraction(time).limit_denominator(1_000_000) for time in cuts)
    passed = 0
    for index, frame in enumerate(clip):
        end = frame.pts * clip.time_base + 1 / (2 * clip.rate)
        before = passed
        while passed < len(times) and times[passed] < end:
            passed += 1
        yield frame, passed > before and index > 0


def _detected(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Each frame, and whether PySceneDetect's adaptive detector finds a cut there that is no flash."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector = AdaptiveDetector(min_scene_len=0, window_width=LOOK_AHEAD, min_content_val=LEAST)
    waiting: deque[Frame] = deque(maxlen=LOOK_AHEAD + 1)
    seen: deque[NDArray[np.uint8]] = deque(maxlen=2 * LOOK_AHEAD + 2)  # as many before a cut as after it
    for index, frame in enumerate(_extended(frames)):
        waiting.append(frame)
        seen.append(_small(frame.image))
        found = detector.process_frame(FrameTimecode(index, 1.0), seen[-1])
        if index >= 2 * LOOK_AHEAD:
            yield waiting[0], bool(found) and not _passes(list(seen))


def _extended(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames, the first and the last repeated: a cut may come right after the one or before the other."""
    last = None
    for frame in frames:
        if last is None:
            yield from repeat(frame, LOOK_AHEAD)
        yield frame
        last = frame
    if last is not None:
        yield from repeat(last, LOOK_AHEAD)


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width, 3) RGB -> the same in BGR, no larger than `SIDE`."""
    height, width = image.shape[:2]
    scale = min(1, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)[..., ::-1])


def _passes(images: list[NDArray[np.uint8]]) -> bool:
    """Whether what changes in the middle of ``images`` is a flash: on both sides there are alike ones."""
    middle = len(images) // 2
    change = cv2.absdiff(images[middle - 1], images[middle]).mean()
    return any(
        cv2.absdiff(before, after).mean() < change / 2
        for before, after in product(images[:middle], images[middle:])
    )
