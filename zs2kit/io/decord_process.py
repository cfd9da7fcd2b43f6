"""decord, in a process of its own: a file that crashes or hangs it ends that process only.

Its import also loads libraries of CUDA that torch on a machine without a GPU must not find loaded.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from threading import Lock, Timer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zs2kit.errors import ClipError

PATIENCE = 30.0  # seconds that decord may take to open a file, or for a frame

_HEAD = struct.Struct("<dii")  # seconds, height, width; a height of 0 is a failure


class DecordProcess:
    """A file that is open in a process with decord. Raises `ClipError` if that can't be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._process: Any = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, os.fspath(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._end = weakref.finalize(self, _ended, self._process)
        (self.count,) = struct.unpack("<q", self._received(8))
        if self.count < 1:
            raise self._failed("can't open")
        self.first = self.frame(0)[1]  # when the first frame is shown

    def frame(self, number: int) -> tuple[NDArray[np.uint8], float]:
        """Return a frame, (height, width, 3) RGB, and when it is shown in seconds, as decord sees it."""
        with self._lock:
            try:
                self._process.stdin.write(struct.pack("<q", number))
                self._process.stdin.flush()
            except (OSError, ValueError):  # it has ended
                raise self._failed("has crashed on") from None
            seconds, height, width = _HEAD.unpack(self._received(_HEAD.size))
            if not height:
                raise self._failed(f"can't decode frame {number} of")
            image = np.frombuffer(self._received(height * width * 3), np.uint8)
        return image.reshape(height, width, 3), seconds

    def _received(self, size: int) -> bytes:
        """Wait for so many bytes; a process that hangs is ended, and then fewer bytes come."""
        watch = Timer(PATIENCE, self._process.kill)
        watch.start()
        try:
            data: bytes = self._process.stdout.read(size)
        finally:
            watch.cancel()
        if len(data) < size:
            raise self._failed("crashes or hangs on")
        return data

    def _failed(self, what: str) -> ClipError:
        self._end()
        return ClipError(f"decord {what} {self._path}", "use the other reader: `reader='pyav'`")


def _ended(process: Any) -> None:
    """End the process, and close what leads to it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()


def main() -> None:
    """Answer requests on standard input, each the number of a frame, on standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # which decord may print to
    sys.modules["nvidia"] = None  # type: ignore[assignment]  # so that it loads none of those libraries
    import decord

    try:
        reader = decord.VideoReader(sys.argv[1], num_threads=1)
    except Exception:
        answers.write(struct.pack("<q", -1))
        answers.flush()
        return
    answers.write(struct.pack("<q", len(reader)))
    answers.flush()
    following = -1
    while request := sys.stdin.buffer.read(8):
        (number,) = struct.unpack("<q", request)
        try:
            if number != following:
                reader.seek_accurate(number)
            image = reader.next().asnumpy()
            following = number + 1
            answers.write(_HEAD.pack(reader.get_frame_timestamp(number)[0], *image.shape[:2]))
            answers.write(np.ascontiguousarray(image, np.uint8).tobytes())
        except Exception:
            answers.write(_HEAD.pack(0, 0, 0))
        answers.flush()


if __name__ == "__main__":
    main()
