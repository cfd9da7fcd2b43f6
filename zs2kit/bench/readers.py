"""The readers of clips compared: speed, random access, and colours, on files that are made here."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import av
import numpy as np
import psutil
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from zs2kit import io
from zs2kit.clip import Clip
from zs2kit.io.cameras import captured

WIDTH, HEIGHT = 640, 360
JUMPS = 8  # to places all over the clip


def run(frames: int) -> None:
    """Print a line for each reader; ``frames`` is the length of the clip for the speed."""
    with TemporaryDirectory() as temporary:
        long, grey = Path(temporary, "long.mp4"), Path(temporary, "grey.mkv")
        _make(long, (_moving(index) for index in range(frames)), "libx264", {"preset": "ultrafast"})
        ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
        _make(grey, [ramp], "ffv1", {})
        print(
            f"{'reader':8}{'ms a frame':>12}{'ms a jump':>12}{'at most':>10}{'levels off':>12}{'at most':>10}"
        )
        readers: dict[str, Callable[[Path], Clip]] = {
            "pyav": io.read,
            "decord": lambda path: io.read(path, reader="decord"),
            "opencv": _with_opencv,
        }
        for name, reader in readers.items():
            clip = reader(long)
            started = _seconds()
            count = sum(1 for _ in clip)
            each = (_seconds() - started) / count
            jumped = f"{'-':>12}{'-':>10}"
            if name != "opencv":  # which is for what has no other places
                jumps = [_jump(reader(long), frames * place // JUMPS) for place in (5, 1, 7, 3)]
                jumped = f"{1000 * float(np.median(jumps)):12.1f}{1000 * max(jumps):10.1f}"
            off = next(iter(reader(grey))).image.astype(float) - ramp
            print(f"{name:8}{1000 * each:12.2f}{jumped}{off.mean():12.2f}{np.abs(off).max():10.0f}")


def _seconds() -> float:
    """Return the seconds that processors have worked for this process and those that it has started."""
    times = [each.cpu_times() for each in psutil.Process().children()]
    return float(process_time() + sum(each.user + each.system for each in times))


def _jump(clip: Clip, number: int) -> float:
    """Return how long it takes to get a frame from anywhere, once the clip is open."""
    clip.frame(0)
    started = perf_counter()
    clip.frame(number)
    return perf_counter() - started


def _with_opencv(path: Path) -> Clip:
    import cv2

    return captured(cv2.VideoCapture(str(path)))


def _moving(index: int) -> NDArray[np.uint8]:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    return np.roll(image.repeat(8, 0).repeat(8, 1), 4 * index, axis=1)


def _make(path: Path, images: Any, codec: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        video: Any = None
        for index, image in enumerate(images):
            if video is None:
                video = container.add_stream(codec, 25, width=image.shape[1], height=image.shape[0])
                video.pix_fmt, video.options = "yuv420p", options
                video.codec_context.color_range = 1
            picture = VideoFrame.from_ndarray(image).reformat(format="yuv420p", dst_color_range=1)
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode())
