"""What Pillow reads but FFmpeg doesn't: animated WebP, AVIF with alpha, AVIF and HEIF photos in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from zs2kit.clip import Anew, Clip, Color, Frame
from zs2kit.encoding import Encoding
from zs2kit.io.webp import animation

_FORMATS = {"WEBP", "AVIF", "HEIF"}
_CLOCK = Fraction(1, 1000)


def plays(path: Path | None) -> int:
    """Return how often an animation is to be played; 0 means forever, as for everything else."""
    picture = _opened(path) if path else None
    if picture is None:
        return 0
    with picture:
        count = int(picture.info.get("loop", 1))
        if not getattr(picture, "is_animated", False):
            return 0
        # A GIF says how often it is repeated, if it is repeated at all.
        return count + 1 if picture.format == "GIF" and count and "loop" in picture.info else count


def described(path: Path) -> Clip | None:
    """Return a clip of what Pillow finds in a file; None if it finds nothing, or something damaged."""
    picture = _opened(path)
    if picture is None or picture.format not in _FORMATS:
        return None
    durations, is_clear, lossless = [], False, False
    with picture:
        try:
            for each in ImageSequence.Iterator(picture):
                image = _pixels(each)
                durations.append(int(each.info.get("duration", 0)))
                is_clear |= bool(image[..., 3:].min(initial=255) < 255)
            if picture.format == "WEBP":
                durations, lossless = animation(path)
        except (OSError, SyntaxError, ValueError):
            return None
    height, width = image.shape[:2]
    clip = Clip(
        frames=(),
        width=width,
        height=height,
        rate=len(durations) / (sum(durations) * _CLOCK) if any(durations) else Fraction(25),
        time_base=_CLOCK,
        frame_count=len(durations),
        source=path,
        color=Color().resolve(width, height),
        silent=True,
        pix_fmt="rgb24" if lossless else "yuv420p",
        encoding=Encoding(alpha=is_clear),
    )
    return replace(clip, frames=Anew(partial(_frames, path, durations, clip.encoding)))


def _opened(path: Path) -> Image.Image | None:
    with suppress(ImportError):
        import pillow_heif  # type: ignore[import-not-found]

        pillow_heif.register_heif_opener()
    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Return the picture as it is shown: (height, width, 3 or 4)."""
    upright = ImageOps.exif_transpose(picture)
    return np.asarray(upright.convert("RGBA" if "A" in upright.getbands() else "RGB"))


def _frames(path: Path, durations: list[int], encoding: Encoding) -> Iterator[Frame]:
    picture = _opened(path)
    if picture is None:
        return
    with picture:
        pts = 0
        for each, duration in zip(ImageSequence.Iterator(picture), durations, strict=False):
            stored = np.ascontiguousarray(_pixels(each)[..., : encoding.channels])
            yield Frame(encoding.image(stored), pts, duration, None if encoding.is_plain else stored)
            pts += duration
