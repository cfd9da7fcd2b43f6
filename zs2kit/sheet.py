"""Contact sheets: rows of frames from several clips, at the same moments, one row above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zs2kit.beside import write_beside
from zs2kit.clip import Seekable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zs2kit.clip import Clip, Frame

HEIGHT, GAP, CAPTION = 160, 4, 24  # pixels: of a frame, between frames, and of the caption above a row


def write_sheet(path: Path, rows: Mapping[str, Clip], columns: int = 8) -> None:
    """Draw a row for each clip: frames of it, evenly spaced from first to last, under the row's name.

    Reads the clips. The file appears only when it is complete. Raises `ClipError` if it can't be written.
    """
    _write(path, [_row(name, _evenly(clip, columns)) for name, clip in rows.items()])


class Sheet:
    """A contact sheet of any number of frames of ``clip``, with the source's above the result's."""

    def __init__(self, clip: Clip, columns: int = 8) -> None:
        self.clip = clip
        self.columns = columns
        self.pairs: list[tuple[float, NDArray[np.uint8], NDArray[np.uint8]]] = []  # seconds, thumbnails

    def add(self, source: Frame, result: Frame) -> None:
        """Add a frame at the end."""
        before, after = (_thumbnail(self.clip, each.image) for each in (source, result))
        self.pairs.append((float(source.pts * self.clip.time_base), before, after))

    def write(self, path: Path) -> None:
        """Draw the sheet: two rows for every ``columns`` frames. Raises `ClipError` if that fails."""
        rows = []
        for first in range(0, len(self.pairs), self.columns):
            times, sources, results = zip(*self.pairs[first : first + self.columns], strict=True)
            at = ", ".join(f"{time:.2f}" for time in times)
            rows += [_row(f"source at {at} s", sources), _row("result", results)]
        _write(path, rows)


def _write(path: Path, rows: Sequence[NDArray[np.uint8]]) -> None:
    import cv2
    import numpy as np

    widest = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    done, data = cv2.imencode(".png", np.concatenate(padded)[..., ::-1])  # OpenCV wants BGR
    assert done
    write_beside(path, data.tobytes())


def _row(name: str, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Draw a caption, and thumbnails side by side under it."""
    import cv2
    import numpy as np

    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    width, (caption, _) = images[0].shape[1], cv2.getTextSize(name, font, size, 1)[0]
    across = max((width + GAP) * len(images) - GAP, caption + 4)
    row = np.full((CAPTION + HEIGHT + GAP, across, 3), 255, np.uint8)
    cv2.putText(row, name, (2, CAPTION - 8), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    for column, image in enumerate(images):
        left = column * (width + GAP)
        row[CAPTION : CAPTION + HEIGHT, left : left + width] = image
    return row


def _thumbnail(clip: Clip, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a frame of the clip as it is displayed, at the sheet's height."""
    import cv2
    import numpy as np

    width = max(1, round(HEIGHT * clip.width * float(clip.sample_aspect_ratio) / clip.height))
    way = cv2.INTER_AREA if len(image) > HEIGHT else cv2.INTER_CUBIC
    return cv2.resize(image, (width, HEIGHT), interpolation=way).astype(np.uint8)


def _evenly(clip: Clip, count: int) -> list[NDArray[np.uint8]]:
    """Return at most ``count`` thumbnails, evenly spaced; of a file, only these frames are decoded."""
    import numpy as np

    length = clip.frames.count() if isinstance(clip.frames, Seekable) else None
    if length:
        numbers = np.linspace(0, length - 1, min(count, length)).round().astype(int)
        return [_thumbnail(clip, clip.frame(int(each)).image) for each in numbers]
    thumbnails: list[NDArray[np.uint8]] = []
    stride = 1
    for index, frame in enumerate(clip):
        if index % stride == 0:
            thumbnails.append(_thumbnail(clip, frame.image))
        if len(thumbnails) == 8 * count:  # drop every second one, so that a clip of any length fits in memory
            thumbnails, stride = thumbnails[::2], stride * 2
    chosen = np.linspace(0, len(thumbnails) - 1, min(count, len(thumbnails))).round().astype(int)
    return [thumbnails[each] for each in chosen]
