"""Contact sheets: clips above one another, at the same moments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zs2kit.beside import write_beside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zs2kit.clip import Clip

HEIGHT, GAP, CAPTION = 160, 4, 24  # of a frame, between frames, and of the line above a row, in pixels


def write_sheet(path: Path, rows: Mapping[str, Clip], columns: int = 8) -> None:
    """Draw frames of every clip, evenly spaced from first to last, in a row under the row's name.

    Reads the clips. The file appears when it is complete. Raises `ClipError` if it can't be written.
    """
    import cv2
    import numpy as np

    sheet = np.concatenate([_row(name, clip, columns) for name, clip in rows.items()])
    done, data = cv2.imencode(".png", sheet[..., ::-1])  # OpenCV wants BGR
    assert done
    write_beside(path, data.tobytes())


def _row(name: str, clip: Clip, columns: int) -> NDArray[np.uint8]:
    """A caption, and under it frames of the clip side by side."""
    import cv2
    import numpy as np

    width = max(1, round(HEIGHT * clip.width * float(clip.sample_aspect_ratio) / clip.height))
    row = np.full((CAPTION + HEIGHT + GAP, (width + GAP) * columns - GAP, 3), 255, np.uint8)
    cv2.putText(row, name, (2, CAPTION - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    for column, image in enumerate(_evenly(clip, columns, width)):
        left = column * (width + GAP)
        row[CAPTION : CAPTION + HEIGHT, left : left + width] = image
    return row


def _evenly(clip: Clip, count: int, width: int) -> list[NDArray[np.uint8]]:
    """At most ``count`` thumbnails, evenly spaced, of a clip whose length needs not be known."""
    import cv2
    import numpy as np

    kept: list[NDArray[np.uint8]] = []
    stride = 1
    for index, frame in enumerate(clip):
        if index % stride == 0:
            shrinks = len(frame.image) > HEIGHT
            way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            kept.append(cv2.resize(frame.image, (width, HEIGHT), interpolation=way).astype(np.uint8))
        if len(kept) == 8 * count:  # keep every second: any length fits in the memory of these few
            kept, stride = kept[::2], stride * 2
    chosen = np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)
    return [kept[each] for each in chosen]
