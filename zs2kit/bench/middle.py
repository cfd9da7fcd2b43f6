"""How good frames in between are: every second frame of real clips is left out, and made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit import io
from zs2kit.beside import write_beside
from zs2kit.between import between, motion_of
from zs2kit.flow import flow, warp
from zs2kit.metrics import psnr, to_float

Image = NDArray[np.uint8]


def middles(clips: Sequence[Path], frames: int) -> Iterator[str]:
    """Yield the rows of a table in Markdown: for each clip, each method's dB in the frames left out.

    frames: how many of each clip are used. The mean of neighbours is as if nothing moved; the DIS warp is the
    mean of both neighbours, each moved half the way along its own flow.
    """
    cv2.setNumThreads(1)  # so that CPU seconds don't count threads that wait
    torch.set_num_threads(1)
    yield "| clip | frames made | mean of neighbours | DIS warp | smooth | CPU seconds a frame |"
    yield "|---|---|---|---|---|---|"
    for path in clips:
        images = [frame.image for frame in islice(io.read(path), frames)]
        found: dict[str, list[float]] = {"mean": [], "warp": [], "smooth": []}
        spent = 0.0
        for before, true, after in zip(images[::2], images[1::2], images[2::2], strict=False):
            began = process_time()
            smooth = _smooth(before, after)
            spent += process_time() - began
            made = {"mean": _mean(before, after), "warp": _warped(before, after), "smooth": smooth}
            for name, image in made.items():
                found[name].append(_decibels(image, true))
        count = len(found["mean"])
        levels = " | ".join(f"{np.mean(each):.2f} dB" for each in found.values())
        height, width = images[0].shape[:2]
        yield f"| {path.name}, {width}x{height} | {count} | {levels} | {spent / count:.2f} |"


def draw(path: Path, clip: Path, place: int) -> None:
    """Write a strip: the frame before ``place``, that frame, smooth, DIS warp, mean, the frame after."""
    before, true, after = (frame.image for frame in islice(io.read(clip), place - 1, place + 2))
    made = [_smooth(before, after), _warped(before, after), _mean(before, after)]
    write_beside(path, cv2.imencode(".png", np.hstack([before, true, *made, after])[..., ::-1])[1].tobytes())


def _decibels(a: Image, b: Image) -> float:
    return psnr(to_float(a), to_float(b))


def _mean(before: Image, after: Image) -> Image:
    return np.asarray(cv2.addWeighted(before, 0.5, after, 0.5, 0), np.uint8)


def _warped(before: Image, after: Image) -> Image:
    halves = [warp(a.astype(np.float32), -0.5 * flow(a, b)) for a, b in ((before, after), (after, before))]
    return np.rint(sum(halves) / 2).astype(np.uint8)


def _smooth(before: Image, after: Image) -> Image:
    a, b = (torch.from_numpy(each).permute(2, 0, 1).float() / 255 for each in (before, after))
    made = between(a, b, motion_of(before, after, (a.shape[1], a.shape[2])), 0.5)
    return (made * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
