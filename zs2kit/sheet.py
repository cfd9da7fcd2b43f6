"""Contact sheets: clips above one another, at the same moments."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from zs2kit.errors import ClipError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zs2kit.clip import Clip

HEIGHT, GAP, CAPTION = 160, 4, 24  # of a frame, between frames, and of the line above a row, in pixels


def check_sheet(path: Path, others: Sequence[Path], overwrite: bool) -> None:
    """Raise `ClipError` or `UsageError` if a sheet can't be written to ``path``.

    Nor may it replace one of ``others``.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: a sheet is a .png file; name it so")
    if not os.path.isdir(path.parent):
        raise ClipError(f"{path}: there is no folder {path.parent}; make it first")
    if os.path.isdir(path):
        raise ClipError(f"{path}: is a folder; choose another name for the sheet")
    try:
        with suppress(FileNotFoundError):
            path.lstat()  # fails on a name that is too long
        tempfile.TemporaryFile(dir=path.parent).close()  # permissions tell less than an attempt
    except OSError as error:
        raise ClipError(
            f"{path}: can't be written ({error.strerror}); choose another name or folder"
        ) from error
    if os.path.realpath(path) in [os.path.realpath(other) for other in others]:
        raise ClipError(f"{path}: is one of the clips; choose another name for the sheet")
    if os.path.lexists(path) and not overwrite:
        raise ClipError(f"{path}: exists; use --overwrite, or another name")


def write_sheet(path: Path, rows: Mapping[str, Clip], columns: int = 8) -> None:
    """Draw frames of every clip, evenly spaced from first to last, in a row under the row's name.

    Reads the clips. The file appears when it is complete. Raises `ClipError` if it can't be written.
    """
    import cv2
    import numpy as np

    sheet = np.concatenate([_row(name, clip, columns) for name, clip in rows.items()])
    done, data = cv2.imencode(".png", sheet[..., ::-1])  # OpenCV wants BGR
    assert done
    temporary = path.with_name(f".zs2kit-{uuid4().hex[:8]}.png")
    try:
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
    except OSError as error:
        raise ClipError(f"{path}: can't be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


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
