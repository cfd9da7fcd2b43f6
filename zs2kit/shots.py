"""Shots: where a clip cuts from one scene to another, as detected while it is read or as given."""

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

LOOK_AHEAD = 2  # frames: a cut is a change that stands out from those around it, and a flash is over by then
# The least mean difference of hue, saturation and value, out of 255, that is a cut. In the samples and two
# real clips, even frames five apart differ by at most 18; of 60 pairs of puppets' scenes, 58 by over 25.
LEAST = 20.0
SIDE = 256  # pixels: the longer side of frames as they are compared


def shots(clip: Clip, cuts: Cuts) -> Iterator[tuple[int, Frame]]:
    """Yield, for each frame of ``clip``, the position of its shot's first frame and the frame itself.

    The frame's ``cut`` then says whether it is that first one. cuts: "auto" to detect them, or times in
    seconds on the clip's own clock; the frame nearest to each time starts a shot. A clip that is made of text
    alone has no cuts. Detection reads `LOOK_AHEAD` frames ahead.
    """
    if clip.blank:
        cuts = ()
    first = 0
    for index, (frame, cut) in enumerate(_detected(clip) if cuts == "auto" else _given(clip, cuts)):
        if cut:
            first = index
            log.info("a shot starts at frame %d, %.2f s", index, frame.pts * clip.time_base)
        yield first, frame._replace(cut=index == first)


def _given(clip: Clip, cuts: Cuts) -> Iterator[tuple[Frame, bool]]:
    # As in `read`, floats are rounded to the microsecond.
    times = sorted(Fraction(time).limit_denominator(1_000_000) for time in cuts)
    passed = 0
    for index, frame in enumerate(clip):
        end = frame.pts * clip.time_base + 1 / (2 * clip.rate)
        before = passed
        while passed < len(times) and times[passed] < end:
            passed += 1
        yield frame, passed > before and index > 0


def _detected(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Yield each frame, and whether PySceneDetect's adaptive detector finds a cut there, not just a flash."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector = AdaptiveDetector(min_scene_len=0, window_width=LOOK_AHEAD, min_content_val=LEAST)
    waiting: deque[Frame] = deque(maxlen=LOOK_AHEAD + 1)
    # As many frames before a cut as after it
    seen: deque[NDArray[np.uint8]] = deque(maxlen=2 * LOOK_AHEAD + 2)
    for index, frame in enumerate(_extended(frames)):
        waiting.append(frame)
        seen.append(_small(frame.image))
        found = detector.process_frame(FrameTimecode(index, 1.0), seen[-1])
        if index >= 2 * LOOK_AHEAD:
            yield waiting[0], bool(found) and not _passes(list(seen))


def _extended(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield the frames, with the first and the last repeated, since a cut may be right next to either."""
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
    """Whether the change in the middle of ``images`` is a flash: a picture before it is like one after it."""
    middle = len(images) // 2
    change = cv2.absdiff(images[middle - 1], images[middle]).mean()
    return any(
        cv2.absdiff(before, after).mean() < change / 2
        for before, after in product(images[:middle], images[middle:])
    )
