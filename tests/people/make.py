"""Make crop.png and litert.npz: a picture, and what LiteRT says of it with MediaPipe's own files.

``python tests/people/make.py MEDIAPIPE_WHEEL SPORTS2D_WHEEL``; it needs ai-edge-litert beside zs2kit.
"""

from __future__ import annotations

import io
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import av
import cv2
import numpy as np

from zs2kit.people.convert import NETWORKS
from zs2kit.people.detection import SURE, letterbox

HERE = Path(__file__).parent
TURNS = {
    "upright": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "turned": lambda image: np.rot90(image),
}
"""The three pictures that are made of the crop."""


def litert(data, picture):
    """What LiteRT's interpreter gives for a picture (1, size, size, 3), by the outputs' names."""
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(picture))
    interpreter.invoke()
    return {each["name"]: interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()}


def main(mediapipe: str, sports2d: str) -> None:
    """Write both files."""
    with (
        zipfile.ZipFile(sports2d) as archive,
        av.open(io.BytesIO(archive.read("Sports2D/Demo/demo.mp4"))) as video,
    ):
        frames = (frame.to_ndarray(format="rgb24") for frame in video.decode(video=0))
        frame = next(frame for index, frame in enumerate(frames) if index == 100)
    crop = cv2.resize(frame[450:950, 800:1300], (256, 256), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(HERE / "crop.png"), crop[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    with zipfile.ZipFile(mediapipe) as archive:
        files = {name: archive.read(path) for name, (path, _) in NETWORKS.items()}
    found = {}
    for name, turn in TURNS.items():
        said = litert(files["landmarks"], turn(crop)[None].astype(np.float32) / 255)
        found[f"{name} points"] = said["Identity"].reshape(-1, 5)[:33, :2]
        found[f"{name} presence"] = said["Identity_1"].reshape(())
        shape = 1 / (1 + np.exp(-said["Identity_2"][0, ::4, ::4, 0].clip(-50, 50).astype(np.float64)))
        found[f"{name} shape"] = shape.astype(np.float16)
        picture, _, _ = letterbox(np.ascontiguousarray(turn(crop)), 224)
        said = litert(files["detector"], picture.permute(0, 2, 3, 1).numpy())
        scores = 1 / (1 + np.exp(-said["Identity_1"].ravel().clip(-50, 50)))
        found[f"{name} sure"] = np.flatnonzero(scores >= SURE)
        found[f"{name} scores"] = scores[scores >= SURE]
        found[f"{name} boxes"] = said["Identity"][0, scores >= SURE]
    np.savez_compressed(HERE / "litert.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
