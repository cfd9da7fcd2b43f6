"""Detectors, which make control maps of pictures: controlnet-aux's annotators and depth estimators."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zs2kit import dwpose
from zs2kit.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

# (frames, height, width, 3) RGB -> maps of the same shape, each made from its own frame alone
Detector = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

_LOCK = Lock()  # the annotators use NumPy's global random generator, which all threads share


@dataclass(frozen=True)
class Annotator:
    """A class of controlnet-aux, or a similar one, and the arguments with which it is loaded and called."""

    cls: str
    files: tuple[str, ...] = ()  # the files of its weights; empty if it has none
    home: str = "lllyasviel/Annotators"  # their repository on the hub
    within: str = ""  # their folder in it
    loading: Mapping[str, Any] = field(default_factory=dict)
    calling: Mapping[str, Any] = field(default_factory=dict)
    module: str = "controlnet_aux"  # the module that has the class


ANNOTATORS = {
    "hed": Annotator("HEDdetector", ("ControlNetHED.pth",)),
    "scribble": Annotator("HEDdetector", ("ControlNetHED.pth",), calling={"scribble": True}),
    "pidinet": Annotator("PidiNetDetector", ("table5_pidinet.pth",)),
    "teed": Annotator("TEEDdetector", ("5_model.pth",), "fal-ai/teed", loading={"filename": "5_model.pth"}),
    "anyline": Annotator(
        "AnylineDetector", ("MTEED.pth",), "TheMistoAI/MistoLine", "Anyline", {"filename": "MTEED.pth"}
    ),
    "lineart": Annotator("LineartDetector", ("sk_model.pth", "sk_model2.pth")),
    "lineart_coarse": Annotator(
        "LineartDetector", ("sk_model.pth", "sk_model2.pth"), calling={"coarse": True}
    ),
    "lineart_anime": Annotator("LineartAnimeDetector", ("netG.pth",)),
    "lineart_standard": Annotator("LineartStandardDetector"),
    "mlsd": Annotator("MLSDdetector", ("mlsd_large_512_fp32.pth",)),
    "normalbae": Annotator("NormalBaeDetector", ("scannet.pt",)),
    "midas": Annotator("MidasDetector", ("dpt_hybrid-midas-501f0c75.pt",)),
    "zoe": Annotator("ZoeDetector", ("ZoeD_M12_N.pt",)),
    "leres": Annotator("LeresDetector", ("res101.pth", "latest_net_G.pth")),
    "openpose": Annotator("OpenposeDetector", ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth")),
    "dwpose": Annotator("DWPose", dwpose.FILES, "yzd-v/DWPose", module="zs2kit.dwpose"),
    "sam": Annotator("SamDetector", ("sam_vit_h_4b8939.pth",), "ybelkada/segment-anything", "checkpoints"),
    "shuffle": Annotator("ContentShuffleDetector"),
}
NAMES = ("canny", *ANNOTATORS)
# Types of models that estimate distance; all others estimate nearness.
_METRIC = {"depth_pro", "glpn", "prompt_depth_anything", "zoedepth"}


def canny(low: float = 100, high: float = 200) -> Detector:
    """Return OpenCV's Canny: edges start where the gradient reaches ``high``, and go on down to ``low``."""
    import cv2

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        edges = np.stack([cv2.Canny(image, low, high) for image in images])
        return np.repeat(edges[..., None], 3, axis=3)

    return maps


def load_detector(
    name: str, device: torch.device, weights: str | None = None, *, plugin: str, **settings: Any
) -> Detector:
    """Load the detector called ``name``, one of `NAMES`: `canny`, or an annotator of controlnet-aux.

    weights: a folder or a repository on the hub; None is the repository in which they are published. They
    are ONNX files, or .pth files, from which only tensors are read, never code.
    plugin: the plugin that has the options ``detector`` and ``annotators``, for messages.
    settings: further arguments for each call of the detector.

    Raises `UsageError` for an unknown name, `ModelError` if packages or weights are missing or damaged.
    """
    if name not in NAMES:
        raise UsageError(
            f"`{plugin}.detector`: no detector is called '{name}'", f"choose from {', '.join(NAMES)}"
        )
    if weights and not (name in ANNOTATORS and ANNOTATORS[name].files):
        raise UsageError(
            f"`{plugin}.annotators`: {name} takes no weights", "leave it out, or set another detector"
        )
    if name == "canny":
        return canny(**settings)
    annotator = ANNOTATORS[name]
    folder = _annotators(annotator, weights, f"{plugin}.annotators") if annotator.files else None
    try:
        with _loading():
            with _hidden("mediapipe"):  # current ones lack what a detector needs that we don't use
                import controlnet_aux  # noqa: F401

            cls = getattr(import_module(annotator.module), annotator.cls)
            found = cls.from_pretrained(str(folder), **annotator.loading) if folder else cls()
            if hasattr(found, "to"):
                found.to(device)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"`{plugin}.detector`: {name} needs the package {error.name}, which isn't installed",
            "install it, or choose another detector",
        ) from error
    except Exception as error:  # damaged files raise all sorts of errors
        where = f"from {folder}" if folder else "with these packages"
        raise ModelError(
            f"`{plugin}.detector`: {name} can't be loaded {where}",
            "download its weights again" if folder else "choose another detector",
        ) from error
    return _frame_by_frame(found, {**annotator.calling, **settings})


def _annotators(annotator: Annotator, weights: str | None, option: str) -> Path:
    """Return the folder of an annotator's files: the user's ``weights``, or from where they are published."""
    from zs2kit.networks.hub import folder_with

    if weights and Path(weights).is_dir():
        return folder_with(weights, annotator.files, option)
    files = [str(Path(annotator.within, file)) for file in annotator.files]
    return folder_with(weights or annotator.home, files, option, inside=annotator.within) / annotator.within


def load_depth_estimator(name: str, device: torch.device, *, plugin: str) -> Detector:
    """Load one of transformers' depth estimators, a folder or a name on the hub, from safetensors.

    Its maps are grey: what is near is bright, and each frame's range is 0 to 255. plugin: the plugin that
    has the option ``detector``, for messages. Raises `ModelError` if it can't be loaded.
    """
    import torch
    import transformers
    from PIL import Image

    from zs2kit.networks.hub import folder_with
    from zs2kit.quiet import quiet

    folder = folder_with(name, ["*.json", "model.safetensors"], f"{plugin}.detector")
    try:
        with quiet():
            estimator = transformers.pipeline(
                "depth-estimation",
                model=str(folder),
                device=device,
                dtype=torch.float32,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as error:  # as above
        raise ModelError(
            f"`{plugin}.detector`: {name} is not a depth-estimation model for transformers",
            "name one, such as depth-anything/Depth-Anything-V2-Small-hf",
        ) from error
    config = estimator.model.config
    metric = config.model_type in _METRIC or getattr(config, "depth_estimation_type", "") == "metric"

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = []
        for image in images:
            with quiet():
                depth = estimator(Image.fromarray(image))["predicted_depth"].squeeze().cpu().numpy()
            near = 1 / np.maximum(depth, 1e-3) if metric else depth
            near = (near - near.min()) / max(float(np.ptp(near)), 1e-6)
            found.append(np.repeat((near * 255).round().astype(np.uint8)[..., None], 3, axis=2))
        return np.stack(found)

    return maps


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Within this context ``package`` can't be imported, as if it were not installed."""
    before = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before


@contextmanager
def _loading() -> Iterator[None]:
    """Within this context controlnet-aux can be imported and can load weights without side effects.

    Otherwise it warns about optional packages, prints, reads our command line, and might unpickle code.
    """
    argv, forced = sys.argv, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    with _LOCK, warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        sys.argv, os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = argv[:1], "1"
        try:
            yield
        finally:
            sys.argv = argv
            if forced is None:
                del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
            else:
                os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = forced


def _frame_by_frame(annotator: Any, settings: Mapping[str, Any]) -> Detector:
    import cv2

    takes = signature(annotator.__call__).parameters

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = images.shape[1:3]
        resolution = max(64, min(height, width))  # the annotator rounds to multiples of 64
        sizes = {each: resolution for each in ("detect_resolution", "image_resolution") if each in takes}
        found = []
        for image in images:
            with _seeded():
                found.append(annotator(image, output_type="np", **sizes, **settings))
        return np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in found])

    return maps


@contextmanager
def _seeded() -> Iterator[None]:
    """Within this context NumPy's global generator starts from the same seed; afterwards it is as before."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = np.random.get_state()
        np.random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(state)
