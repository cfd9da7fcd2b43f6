"""Edges: the result has the source's outlines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zs2kit import option
from zs2kit.control import UNIONS, Control
from zs2kit.detectors import load_detector
from zs2kit.settings import MODEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.model import Model

_SD21, _MISTO = (
    "thibaud/controlnet-sd21/control_v11p_sd21_",
    "TheMistoAI/MistoLine/mistoLine_fp16.safetensors",
)
# By the kind of lines, and by the family of models; MistoLine takes all kinds of thin lines
CONTROLNETS = {
    "canny": {
        "sd1": "lllyasviel/control_v11p_sd15_canny",
        "sd2": f"{_SD21}canny.safetensors",
        "sdxl": "diffusers/controlnet-canny-sdxl-1.0",
        **UNIONS,
    },
    "softedge": {
        "sd1": "lllyasviel/control_v11p_sd15_softedge",
        "sd2": f"{_SD21}hed.safetensors",
        "sdxl": _MISTO,
        **UNIONS,
    },
    "lineart": {
        "sd1": "lllyasviel/control_v11p_sd15_lineart",
        "sd2": f"{_SD21}lineart.safetensors",
        "sdxl": _MISTO,
    },
    "scribble": {
        "sd1": "lllyasviel/control_v11p_sd15_scribble",
        "sd2": f"{_SD21}scribble.safetensors",
        "sdxl": "xinsir/controlnet-scribble-sdxl-1.0",
    },
}
LINES = {"hed": "softedge", "pidinet": "softedge", "teed": "softedge"}  # of the other detectors: their own


@dataclass(eq=False)
class Edges(Control):
    """Finds the outlines in the source and has the model fill them with something new.

    If the checkpoint has an edge ControlNet of its own, as the bundled one does, it is used. Otherwise the
    ControlNet is one that was trained for the detector's kind of lines (canny, soft edges from hed, pidinet
    and teed, lineart, or scribble): lllyasviel's for Stable Diffusion 1, thibaud's for 2, and for XL those of
    diffusers, MistoLine and xinsir. For FLUX.1 and Qwen-Image it is one that was trained for canny and soft
    edges, Shakker-Labs's and InstantX's.
    """

    detector: Literal["canny", "hed", "pidinet", "teed", "lineart", "scribble"] = option(
        "canny", "The edge detector; canny comes from OpenCV, the others come from controlnet-aux."
    )
    low: float = option(100.0, "The smallest gradient at which canny still follows an edge.", minimum=0)
    high: float = option(200.0, "The smallest gradient at which canny starts an edge.", minimum=0)
    annotators: str | None = option(
        None,
        "Folder or hub name of the detector's weights. none means lllyasviel/Annotators (for teed, "
        "fal-ai/teed).",
        kind=MODEL,
    )

    def controlnet(self, model: Model) -> str | Path:
        lines = LINES.get(self.detector, self.detector)
        return model.bundled("controlnet_edges") or self.usual(model, CONTROLNETS[lines])

    def kind(self) -> int | None:
        return 0 if self.detector == "canny" else None

    def load_detector(self, model: Model, clip: Clip) -> None:
        settings = {"low": self.low, "high": self.high} if self.detector == "canny" else {}
        self._detector = load_detector(
            self.detector, model.device, self.annotators, plugin="edges", **settings
        )

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        return self._detector(images)
