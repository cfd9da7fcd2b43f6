"""What benchmarks have drawn and measured so far, cell by cell, so that they can go on where they stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from zs2kit.puppets.yardsticks import Images, Numbers

FOLDER = Path("~/.cache/zs2kit/bench")


class Cells:
    """A folder of cells: each is a clip as one PNG, its frames in a row, and a JSON file of what is known.

    A cell is known by all that determines it, its settings, so a changed setting makes a new one. What is
    there isn't made again, and what is killed while it is made isn't there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def clip(self, settings: Mapping[str, Any], draw: Callable[[], Images]) -> Images:
        """Return the frames (frames, height, width, 3) of RGB bytes that ``draw`` makes at these settings.

        How many there are is one of the settings, ``frames``.
        """
        picture = self._path(settings, ".png")
        if not picture.exists():
            start = perf_counter()
            frames = draw()
            self._save(settings, {"seconds": perf_counter() - start})
            strip = np.concatenate(list(frames), axis=1)
            part = picture.with_suffix(f".{os.getpid()}.png")
            cv2.imwrite(str(part), strip[..., ::-1])
            part.replace(picture)
        strip = np.asarray(cv2.imread(str(picture)))[..., ::-1]
        return np.ascontiguousarray(np.stack(np.split(strip, settings["frames"], axis=1)))

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Whether the clip of these settings has been drawn."""
        return self._path(settings, ".png").exists()

    def numbers(self, settings: Mapping[str, Any], rules: str, measure: Callable[[], Numbers]) -> Numbers:
        """Return what ``measure`` finds, kept with the cell for as long as it goes by the same ``rules``."""
        known = self._known(settings)
        if known.get("rules") != rules:
            known |= {"rules": rules, "numbers": measure()}
            self._save(settings, known)
        return known["numbers"]  # type: ignore[no-any-return]

    def rows(
        self, settings: Mapping[str, Any], rules: str, works: Mapping[str, Callable[[], Numbers]]
    ) -> Iterator[tuple[str, Numbers]]:
        """Yield what each of ``works`` finds, by its name; it is kept as soon as it is found."""
        for name, measure in works.items():
            known = self._known(settings)
            rows = known["numbers"] if known.get("rules") == rules else {}
            if name not in rows:
                rows[name] = measure()
                self._save(settings, {**known, "rules": rules, "numbers": rows})
            yield name, rows[name]

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """How long the clip took to draw, on a machine that may have been busy with other things as well."""
        return float(self._known(settings)["seconds"])

    def found(self, key: str, rules: str) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield settings and numbers of all cells made by ``rules`` with ``key`` among their settings."""
        for path in sorted(self.folder.glob("*.json")):
            known = json.loads(path.read_text())
            if key in known["settings"] and known.get("rules") == rules:
                yield known["settings"], known["numbers"]

    def _path(self, settings: Mapping[str, Any], suffix: str) -> Path:
        key = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]
        return self.folder / f"{key}{suffix}"

    def _known(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        path = self._path(settings, ".json")
        return json.loads(path.read_text()) if path.exists() else {}

    def _save(self, settings: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        path = self._path(settings, ".json")
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"settings": settings, **known}, indent=1))
        part.replace(path)
