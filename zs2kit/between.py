"""Pictures between two others, along the motion from one to the other.

Flows say where the parts of each picture are at a time in between (they are carried there, as in Niklaus &
Liu 2020, "Softmax Splatting for Video Frame Interpolation"), and both pictures are moved there. What only one
of them shows is taken from that one. Where they still differ, one of them is taken rather than a mixture,
which would show edges twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit.flow import SMALLEST, flow, visible
from zs2kit.motion import blurred, grid_of, sampled

# By how many levels of 255 two pictures may differ along the motion and still show the same
AGREEMENT = 24
SHARP = 4.0  # by how many levels of 255 one motion must be better than another to be used alone
LEAST = 0.3  # the weight of what seems to be hidden, against 1 + LEAST, since flows are often wrong there


@dataclass(frozen=True)
class Motion:
    """How things move from a picture ``a`` to a picture ``b``: flows (2, height, width) in pixels."""

    forward: torch.Tensor  # from a to b
    backward: torch.Tensor
    seen_in_b: torch.Tensor  # how reliable the flow from a is: (height, width), 0 where it leads nowhere
    seen_in_a: torch.Tensor

    @property
    def sure(self) -> float:
        """The share of the two pictures whose motion is known."""
        return float((self.seen_in_a.mean() + self.seen_in_b.mean()) / 2)


def motion_of(a: NDArray[np.uint8], b: NDArray[np.uint8], size: tuple[int, int]) -> Motion:
    """Return the motion between two pictures (height, width, 3), scaled to ``size`` (height, width)."""
    if min(a.shape[:2]) < SMALLEST:
        still = torch.zeros(2, *size)
        return Motion(still, still, torch.ones(size), torch.ones(size))
    forward, backward = flow(a, b), flow(b, a)
    seen_in_b = visible(forward, backward) & alike(a, b, forward)
    seen_in_a = visible(backward, forward) & alike(b, a, backward)
    return Motion(
        *(_brought(each, size, flows=True) for each in (forward, backward)),
        *(_brought(each.astype(np.float32), size) for each in (seen_in_b, seen_in_a)),
    )


def alike(a: NDArray[np.uint8], b: NDArray[np.uint8], motion: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where ``a`` shows the same as ``b`` does where ``motion`` leads: (height, width)."""
    rows, columns = np.indices(motion.shape[:2], np.float32)
    found = cv2.remap(
        b, columns + motion[..., 0], rows + motion[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    apart = cv2.GaussianBlur(cv2.absdiff(a, found).max(axis=2).astype(np.float32), (0, 0), 1.5)
    close: NDArray[np.bool_] = apart <= AGREEMENT
    return close


def _brought(picture: NDArray[np.float32], size: tuple[int, int], *, flows: bool = False) -> torch.Tensor:
    """Bring a flow, or a mask, to another size: (channels, height, width), or (height, width)."""
    height, width = picture.shape[:2]
    if (height, width) != size:
        picture = np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        if flows:
            picture = picture * np.array([size[1] / width, size[0] / height], np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(picture))
    return tensor.permute(2, 0, 1).contiguous() if flows else tensor


def between(a: torch.Tensor, b: torch.Tensor, motion: Motion, time: float) -> torch.Tensor:
    """Return the picture at ``time``, from 0 (``a``) to 1 (``b``): (3, height, width) in [0, 1], like these.

    motion: that from ``a`` to ``b``, at their size.
    """
    # What each of the two says about the motion at that time, as a flow from a to b
    of_a, there_a = _splatted(motion.forward, motion.seen_in_b + 0.05, motion.forward * time)
    of_b, there_b = _splatted(-motion.backward, motion.seen_in_a + 0.05, motion.backward * (1 - time))
    made, apart = [], []
    for moves in (_filled(of_a, there_a), _filled(of_b, there_b), torch.zeros_like(of_a)):
        to_a, to_b = -time * moves, (1 - time) * moves
        share = share_of(moved(motion.seen_in_b[None], to_a)[0], moved(motion.seen_in_a[None], to_b)[0], time)
        one, differs = mixed(moved(a, to_a), moved(b, to_b), share)
        made.append(one)
        apart.append(differs)
    chosen = torch.softmax(-torch.stack(apart) / SHARP, 0)[:, None]
    return (torch.stack(made) * chosen).sum(0)


def share_of(seen_in_a: torch.Tensor, seen_in_b: torch.Tensor, time: float) -> torch.Tensor:
    """Return the share of the second of two pictures in one at ``time`` between them: (height, width).

    seen_in_a, seen_in_b: how certain it is that each of the two shows what is there, (height, width).
    """
    of_a, of_b = (1 - time) * (seen_in_a + LEAST), time * (seen_in_b + LEAST)
    return of_b / (of_a + of_b)


def mixed(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix two pictures (3, height, width) that were moved to the same moment; ``share`` is that of ``b``.

    Where they show different things, one of them is taken, since a mixture would show both. Also returns by
    how many levels of 255 they differ, (height, width).
    """
    apart = blurred((a - b).abs().amax(0, keepdim=True), 1.5)[0] * 255
    doubt = (apart / AGREEMENT - 1).clamp(0, 1)
    alone = blurred(share[None], 1.5)[0].round()
    return torch.lerp(a, b, torch.lerp(share, alone, doubt)), apart


def _splatted(
    values: torch.Tensor, weights: torch.Tensor, moves: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Carry ``values`` (channels, height, width) along ``moves``; return sums of values and of weights."""
    channels, height, width = values.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns + moves[0], rows + moves[1]
    left, top = x.floor(), y.floor()
    total = torch.zeros(channels + 1, height * width)
    carried = torch.cat([values, torch.ones(1, height, width)])
    for right, low in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + right, top + low
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * weights * inside
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten()
        total.index_add_(1, place, (carried * share).flatten(1))
    total = total.view(channels + 1, height, width)
    return total[:-1], total[-1]


def _filled(sums: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return means, filling in missing ones from around them."""
    filled, known = sums, weights
    for sigma in (2.0, 6.0, 18.0):
        reach = min(sigma, (min(sums.shape[1:]) - 1) / 4.5)
        near = blurred(torch.cat([sums, weights[None]]), reach)
        trust = (known / 0.25).clamp(0, 1)
        filled, known = filled + (1 - trust) * near[:-1] * 0.05, known + (1 - trust) * near[-1] * 0.05
    return filled / known.clamp_min(1e-6)


def moved(picture: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Return what ``picture`` (channels, height, width) shows where ``moves`` lead."""
    return sampled(picture, grid_of(moves.permute(1, 2, 0)), "bilinear")
