"""How a notebook shows a clip: as a small video with sound, inside of the page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import fields
from fractions import Fraction
from html import escape
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from zs2kit import clip as clip_
from zs2kit.clip import Anew, Color, Frame
from zs2kit.clip import Clip as Clip
from zs2kit.encoding import Encoding
from zs2kit.errors import receiving
from zs2kit.progress import Report

HEIGHT = 256  # pixels, at most, in a notebook
VIEW = 480  # the same, for `write_view`
SECONDS = 10  # of a clip, at most
DRAWN = 48  # frames, at most, of a clip that is drawn while it is shown


def html(clip: Clip) -> str:
    """Return HTML with a small video of the clip and its sound, and what the clip is.

    Of a long clip, this is the first ten seconds; of an edit, which is drawn for it, the first 48 frames.
    Raises what iterating over the clip raises.
    """
    from zs2kit.io.writing import write

    count = DRAWN if clip.frames is clip else round(SECONDS * clip.rate)
    part = "" if clip.frame_count is not None and clip.frame_count <= count else f"; its first {count} frames"
    with TemporaryDirectory() as folder, receiving(lambda notice: None):  # they were told when it was read
        path = write(Path(folder) / "clip.mp4", _small(clip, count, HEIGHT), sound="aac", quality=23)
        data = b64encode(path.read_bytes()).decode()
    return (
        f'<video controls loop src="data:video/mp4;base64,{data}"></video>'
        f"<div>{escape(repr(clip))}{part}</div>"
    )


def write_view(path: Path, clip: Clip, progress: Report | None = None) -> None:
    """Write a video of the whole clip that every browser plays, at most `VIEW` pixels high.

    progress: called with the number of frames that are written. Raises what iterating over the clip raises.
    """
    from zs2kit.io.writing import write

    with receiving(lambda notice: None):
        small = _small(clip, None, VIEW)
        write(path, small, sound="aac", quality=23, overwrite=True, resume=False, progress=progress)


def _small(clip: Clip, count: int | None, most: int) -> Clip:
    """Return at most ``count`` first frames, with square pixels, of even sides, at most ``most`` high."""
    import cv2

    displayed = clip.width * clip.sample_aspect_ratio
    scale = min(Fraction(1), Fraction(most, clip.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (displayed, clip.height))

    def frames() -> Iterator[Frame]:
        for frame in islice(clip, count):
            image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
            yield frame._replace(image=image.astype(np.uint8, copy=False), stored=None)

    end = clip.end
    if count is not None:
        lasts = (clip.start or 0) + count / clip.rate
        end = lasts if end is None else min(end, lasts)
    facts = {each.name: getattr(clip, each.name) for each in fields(Clip) if each.init}
    changes = {
        "frames": Anew(frames),
        "width": width,
        "height": height,
        "sample_aspect_ratio": Fraction(1),
        "end": end,
        "frame_count": clip.frame_count if count is None else None,
        "encoding": Encoding(),
        "color": Color(),
    }
    return Clip(**facts | changes)


clip_.html = html
