"""Control: any ControlNet, with maps from any detector or maps of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zs2kit import hookimpl, option
from zs2kit.companion import Companion
from zs2kit.control import Control
from zs2kit.detectors import NAMES, load_detector
from zs2kit.errors import UsageError
from zs2kit.plugins import name_of
from zs2kit.settings import FILE, MODEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.model import Model


@dataclass(eq=False)
class AnyControl(Control):
    """Steers with any ControlNet that you name, using maps from a detector or maps of your own.

    Your own maps come as a clip, such as a renderer's depth maps or hand-drawn lines. They may move in any
    way. If they move as the source does, `flow_momentum=0.95` makes the result steadier. An edit may use
    this plugin several times, each time with another ControlNet.
    """

    detector: str | None = option(
        None, f"The detector that finds the maps in the source: {', '.join(NAMES)}."
    )
    annotators: str | None = option(
        None,
        "Folder or hub name of the detector's weights. none means the place where controlnet-aux "
        "publishes them.",
        kind=MODEL,
    )
    maps: str | None = option(
        None,
        "Your own maps, instead of a detector: a video of the size and length of the clip's file (start and "
        "end apply to it, too), or one picture for all frames.",
        kind=FILE,
    )
    mode: int | None = option(
        None,
        "For a ControlNet of FLUX.1 that takes several kinds of maps: the number of the kind that it gets, "
        "from its model card. Often 0 is canny, 2 is depth and 4 is pose.",
        minimum=0,
    )

    @property
    def follows_source(self) -> bool:
        """Whether the result moves as the source does; your own maps may not."""
        return self.maps is None

    def controlnet(self, model: Model) -> str:
        raise UsageError(
            f"`{name_of(self)}.model` is not set", "give the ControlNet's folder, file or hub name"
        )

    def kind(self) -> int | None:
        return self.mode

    def check_kind(self, where: str | Path, kinds: int | None) -> None:
        if kinds is None and self.mode is not None:
            raise UsageError(
                f"`{name_of(self)}.mode` has no effect, since {where} is for one kind of maps", "leave it out"
            )
        super().check_kind(where, kinds)

    def load_detector(self, model: Model, clip: Clip) -> None:
        name = name_of(self)
        if (self.detector is None) == (self.maps is None):
            raise UsageError(f"{name} needs either `{name}.detector` or `{name}.maps`", "set one of the two")
        self._companion = Companion(self.maps, clip) if self.maps else None
        if self.detector:
            self._detector = load_detector(self.detector, model.device, self.annotators, plugin=name)

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        if self._companion is None:
            return self._detector(images)
        assert chunk.fit is not None
        return np.stack([chunk.fit.apply(image) for image in self._companion.frames_of(chunk)])

    @hookimpl
    def finish(self, frames: int) -> None:
        if self.scale and self._companion:
            self._companion.finish(frames)
