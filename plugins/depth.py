"""Depth: what is near stays near, and what is far stays far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zs2kit import option
from zs2kit.control import Control
from zs2kit.detectors import Detector, load_depth_estimator, load_detector
from zs2kit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.model import Model

ANNOTATORS = ("midas", "zoe", "leres")


@dataclass(eq=False)
class Depth(Control):
    """Estimates how far everything in the source is and has the model draw a scene of that layout.

    A checkpoint that brings its own depth ControlNet and estimator, as the bundled one does, uses them;
    with any other, lllyasviel/control_v11f1p_sd15_depth draws what Depth Anything V2 estimates.
    """

    detector: str | None = option(
        None,
        "What estimates depth: midas, zoe or leres of controlnet-aux, or the folder or hub name of a "
        "depth-estimation model of transformers; none is the checkpoint's own estimator, else "
        "depth-anything/Depth-Anything-V2-Small-hf.",
    )
    annotators: str | None = option(
        None, "Folder or hub name of the weights of midas, zoe and leres; none is lllyasviel/Annotators."
    )

    def controlnet(self, model: Model) -> str | Path:
        return model.bundled("controlnet_depth") or "lllyasviel/control_v11f1p_sd15_depth"

    def load_detector(self, model: Model, clip: Clip) -> None:
        own = model.bundled("estimator")
        name = self.detector or ("puppets" if own else "depth-anything/Depth-Anything-V2-Small-hf")
        if self.annotators and name not in ANNOTATORS:
            raise UsageError(f"depth.annotators is for midas, zoe and leres, and the detector is {name}")
        if name == "puppets":
            self._detector = _puppets(model, own)
        elif name in ANNOTATORS:
            self._detector = load_detector(name, model.device, self.annotators, plugin="depth")
        else:
            self._detector = load_depth_estimator(name, model.device, plugin="depth")

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        return self._detector(images)


def _puppets(model: Model, folder: Path | None) -> Detector:
    if folder is None:
        raise ModelError(
            f"depth.detector: {model.name} brings no estimator of its own; use midas, or name a "
            "depth-estimation model of transformers"
        )
    from diffusers import UNet2DModel

    from zs2kit.puppets.estimator import estimate

    network = model.load_network(UNet2DModel, folder).float()  # small, and resizing needs float32

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        depth, _ = estimate(network, images)
        return np.repeat((depth * 255).round().astype(np.uint8)[..., None], 3, axis=3)

    return maps
