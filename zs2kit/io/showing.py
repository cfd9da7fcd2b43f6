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

HEIGHT = 256  # pixels, at most
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
        path = write(Path(folder) / "clip.mp4", _small(clip, count), sound="aac", quality=23)
        data = b64encode(path.read_bytes()).decode()
    return (
        f'<video controls loop src="data:video/mp4;base64,{data}"></video>'
        f"<div>{escape(repr(clip))}{part}</div>"
    )


def _small(clip: Clip, count: int) -> Clip:
    """Return at most ``count`` first frames of the clip, with square pixels, and of even sides."""
    import cv2

    displayed = clip.width * clip.sample_aspect_ratio
    scale = min(Fraction(1), Fraction(HEIGHT, clip.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (displayed, clip.height))

    def frames() -> Iterator[Frame]:
        for frame in islice(clip, count):
            image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
            yield frame._replace(image=image.astype(np.uint8, copy=False), stored=None)

    lasts = (clip.start or 0) + count / clip.rate
    facts = {each.name: getattr(clip, each.name) for each in fields(Clip) if each.init}
    changes = {
        "frames": Anew(frames),
        "width": width,
        "height": height,
        "sample_aspect_ratio": Fraction(1),
        "end": lasts if clip.end is None else min(clip.end, lasts),
        "frame_count": None,
        "encoding": Encoding(),
        "color": Color(),
    }
    return Clip(**facts | changes)


clip_.html = html
