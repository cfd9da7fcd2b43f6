"""Frames that aren't drawn but filled in from the drawn frames around them, along the source's motion.

The source has all frames. Its flow from a frame that isn't drawn to the drawn frames before and after it says
where its parts are in those two. So nothing has to be guessed about how things move in between.

`Frame.fill` is (height, width, 5), at the model's size: the flows to the frame before and to the frame after,
x before y, and the share of the frame after in the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit.between import alike, mixed, moved, share_of
from zs2kit.clip import Chunk, Fit, Frame
from zs2kit.flow import SMALLEST, flow, visible

UNSURE = 0.05  # a frame is drawn if the motion of a larger share of it is unclear


def spaced(frames: Iterable[Frame], every: int, fit: Fit) -> Iterator[Frame]:
    """Yield the frames of a shot, or its rest from a drawn frame on; those not to be drawn get a `fill`.

    At most ``every`` - 1 frames in a row are filled in, and never the first or the last of a shot. Whichever
    drawn frame it starts from, the same frames are drawn. fit: how the model gets the frames. So many as
    ``every`` are held in memory.
    """
    frames = iter(frames)
    waiting = list(islice(frames, every + 1))
    pictures = [fit.apply(frame.image) for frame in waiting]
    yield from waiting[:1]
    while len(waiting) > 1:
        last = len(waiting) - 1
        while (fills := _fills(pictures[: last + 1], waiting[: last + 1])) is None:
            last -= 1
        yield from (frame._replace(fill=fill) for frame, fill in zip(waiting[1:], fills, strict=False))
        yield waiting[last]
        more = list(islice(frames, last))
        waiting = [*waiting[last:], *more]
        pictures = [*pictures[last:], *(fit.apply(frame.image) for frame in more)]


def _fills(pictures: list[NDArray[np.uint8]], frames: list[Frame]) -> list[NDArray[np.float32]] | None:
    """Return how to fill in all but the first and the last; None if one of them should be drawn."""
    first, last = frames[0].pts, frames[-1].pts
    found = []
    for picture, frame in list(zip(pictures, frames, strict=True))[1:-1]:
        if min(picture.shape[:2]) < SMALLEST:
            return None
        ways = [_way(picture, other) for other in (pictures[0], pictures[-1])]
        if np.mean(~(ways[0][1] | ways[1][1])) > UNSURE:
            return None
        seen = [torch.from_numpy(each.astype(np.float32)) for _, each in ways]
        share = share_of(seen[0], seen[1], (frame.pts - first) / (last - first)).numpy()
        found.append(np.dstack([ways[0][0], ways[1][0], share]))
    return found


def _way(
    picture: NDArray[np.uint8], other: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the flow from one picture to another, and where it is reliable.

    Next to something that moves, flows are often wrong about what doesn't move. So where a flow is
    unreliable, but both pictures show the same in the same place, it is set to 0.
    """
    there, back = flow(picture, other), flow(other, picture)
    sure = visible(there, back) & alike(picture, other, there)
    stays = ~sure & alike(picture, other, np.zeros_like(there))
    there[stays] = 0
    return there, sure | stays


def filled(pixels: torch.Tensor, chunk: Chunk, before: torch.Tensor | None) -> torch.Tensor:
    """Return all frames of a chunk, filling in those that aren't drawn: (frames, 3, height, width), float32.

    pixels: the drawn frames, (drawn frames, 3, height, width) in [0, 1]. before: the last drawn frame before
    the chunk, (3, height, width); None at the start of a shot.
    """
    drawn = list(pixels.float().cpu())
    made: list[torch.Tensor] = []
    count = 0  # how many of the drawn frames have passed
    for place in range(chunk.length):
        fill = chunk.fills[place]
        if fill is None:
            made.append(drawn[count])
            count += 1
        else:
            a = drawn[count - 1] if count else before
            parts = torch.from_numpy(fill).permute(2, 0, 1)
            assert a is not None
            pair = moved(a, parts[:2]), moved(drawn[count], parts[2:4])
            made.append(mixed(*pair, parts[4])[0])
    return torch.stack(made)
