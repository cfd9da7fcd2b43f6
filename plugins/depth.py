"""Depth: what is near in the source stays near, and what is far stays far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zs2kit import option
from zs2kit.control import UNIONS, Control
from zs2kit.detectors import Detector, load_depth_estimator, load_detector
from zs2kit.errors import ModelError, UsageError
from zs2kit.settings import MODEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.model import Model

ANNOTATORS = ("midas", "zoe", "leres")
CONTROLNETS = {
    "sd1": "lllyasviel/control_v11f1p_sd15_depth",
    "sd2": "thibaud/controlnet-sd21/control_v11p_sd21_depth.safetensors",
    "sdxl": "diffusers/controlnet-depth-sdxl-1.0",
    **UNIONS,
}


@dataclass(eq=False)
class Depth(Control):
    """Estimates how far away everything in the source is, and has the model draw a scene with that layout.

    If the checkpoint has a depth ControlNet and an estimator of its own, as the bundled one does, these are
    used. Otherwise Depth Anything V2 estimates the depth, and the ControlNet is lllyasviel's for Stable
    Diffusion 1, thibaud's for 2, diffusers' for XL, Shakker-Labs's for FLUX.1 and InstantX's for Qwen-Image.
    """

    detector: str | None = option(
        None,
        "The depth estimator: midas, zoe or leres (from controlnet-aux), or the folder or hub name of a "
        "depth-estimation model for transformers. none means the checkpoint's own if it has one, else "
        "depth-anything/Depth-Anything-V2-Small-hf.",
        kind=MODEL,
    )
    annotators: str | None = option(
        None,
        "Folder or hub name of the weights of midas, zoe or leres. none means lllyasviel/Annotators.",
        kind=MODEL,
    )

    def controlnet(self, model: Model) -> str | Path:
        return model.bundled("controlnet_depth") or self.usual(model, CONTROLNETS)

    def kind(self) -> int:
        return 2

    def load_detector(self, model: Model, clip: Clip) -> None:
        own = model.bundled("estimator")
        name = self.detector or ("puppets" if own else "depth-anything/Depth-Anything-V2-Small-hf")
        if self.annotators and name not in ANNOTATORS:
            raise UsageError(
                f"`depth.annotators` is for midas, zoe and leres, but the detector is {name}",
                "use one of these detectors, or leave it out",
            )
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
            f"`depth.detector`: {model.name} has no estimator of its own",
            "use midas, or name a depth-estimation model for transformers",
        )
    from diffusers import UNet2DModel

    from zs2kit.puppets.estimator import estimate

    network = model.load_network(UNet2DModel, folder).float()  # small, and resizing needs float32

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        depth, _ = estimate(network, images)
        return np.repeat((depth * 255).round().astype(np.uint8)[..., None], 3, axis=3)

    return maps
