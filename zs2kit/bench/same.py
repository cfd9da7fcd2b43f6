"""That a rebuild changes no frame: the same edits by this tree and by an earlier one, compared to the bit.

Each tree runs this very file, as a script, so it takes from zs2kit only what is public and stays.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import cv2
import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

import zs2kit
from zs2kit.testing import drawn_clip, tiny_models

COMMIT = "b132a7e"  # the last one that was meant to change frames
ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
MAPS, PICTURE = str(SAMPLES / "skeleton-jump.mp4"), str(SAMPLES / "pink-wizard.png")
USUAL = {"prompt": "a green wizard", "negative_prompt": "blurred", "num_inference_steps": 4, "momentum": 0.9}
USUAL |= {"guidance_scale": 5.0, "noise": "dependency", "divergence": 0.3, "chunk_size": 2, "seed": 1}
FLOW: dict[str, Any] = {"flow_momentum": 0.95, "num_inference_steps": 6}
ALONG = {0: "a red robot", 3: "a blue knight at night"}  # prompts


def make(
    model: str, source: str, *plugins: object, tiny: Path, frames: int = 4, stop: int = 0, **given: Any
) -> NDArray[np.uint8]:
    """Return the frames of an edit of a sample, of a ``disc`` or of two ``shots``, or those of a ``text``.

    tiny: where checkpoints lie that aren't bundled. stop: after how many frames, if any, the edit ends, and
    another one goes on. given: settings beside the `USUAL` ones.
    """
    loaded = _load(tiny, model, given.pop("dtype", "float32"))
    settings: dict[str, Any] = {**USUAL, "plugins": plugins, "model": loaded, **given}

    def made() -> zs2kit.Clip:
        if source == "text":
            return zs2kit.generate(frames=frames, **settings)
        clip = drawn_clip(frames, width=50, height=37)
        if source != "disc":
            names = ["robot-dance", "skeleton-jump"] if source == "shots" else [source]
            clips = [zs2kit.read(SAMPLES / f"{name}.mp4", end=frames / 12) for name in names]
            clip = clips[0] if len(clips) == 1 else zs2kit.Clip.from_images(_images(*clips), 12)
        return zs2kit.edit(clip, **{"plugins": (), "flow_momentum": 0.0, "cuts": (), **settings})

    def end(done: int) -> None:
        if done == 2:
            sleep(2)  # what is done is kept where that takes a small share of the time
        if done == stop:
            raise InterruptedError

    if not stop:
        return _images(made())
    done: list[int] = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "edited.mkv"
        with suppress(InterruptedError):
            zs2kit.write(path, made(), codec="ffv1", progress=end)
        zs2kit.write(path, made(), codec="ffv1", resume=True, progress=done.append)
        if min(done) < 2:
            raise RuntimeError("no frame was kept, so nothing was resumed")
        return _images(zs2kit.read(path))


def _images(*clips: zs2kit.Clip) -> NDArray[np.uint8]:
    return np.stack([frame.image for clip in clips for frame in clip])


@cache
def _load(tiny: Path, name: str, dtype: str) -> zs2kit.Model:
    return zs2kit.Model.load(tiny / name if (tiny / name).is_dir() else name, dtype=dtype, device="cpu")


def _plugin(name: str, **options: Any) -> Any:
    kind = "AnyControl" if name == "control" else name.capitalize()
    return getattr(import_module(f"zs2kit_plugins.{name}"), kind)(**options)


depth, edges, instruct, invert, mask, pose, reference, strength = (
    partial(_plugin, name)
    for name in ("depth", "edges", "instruct", "invert", "mask", "pose", "reference", "strength")
)
canny = _plugin("control", detector="canny", model="controlnet_edges")
maps = _plugin("control", maps=MAPS, model="controlnet_depth", scale=0.8)
case, dance, wave = partial(partial, make), "robot-dance", "clown-wave"
CASES: dict[str, partial[NDArray[np.uint8]]] = {
    "ddim": case("epsilon", "disc", chunk_size=3),
    "pose, depth, euler": case("v_prediction", dance, pose(scale=0.5), depth(end=0.75), scheduler="euler"),
    "canny, flow, dpm++": case("v_prediction", dance, canny, scheduler="dpm++", chunk_size=1, **FLOW),
    "strength, flow, unipc": case("epsilon", "disc", strength(), edges(), scheduler="unipc", **FLOW),
    "instruct, euler": case("instruct", "disc", instruct(), scheduler="euler", size=(48, 80)),
    "invert, no guidance": case("epsilon", "disc", invert(prompt="a disc", iterations=2), guidance_scale=1),
    "sdxl, masks, dpm++": case("sdxl", dance, mask(clip=MAPS), strength(strength=0.6), scheduler="dpm++"),
    "sdxl, prompts": case("sdxl", "text", prompt=ALONG, noise="orbit", chunk_size=3, scheduler="euler"),
    "prompts": case("epsilon", "text", prompt=ALONG, noise="mixed", guidance_scale=1, scheduler="unipc"),
    "scale as input": case(
        "distilled", "disc", edges(), cuts=(0.1,), noise="mixed", scheduler="lcm", negative_prompt="", **FLOW
    ),
    "lcm, orbit": case("v_prediction", "text", scheduler="lcm", noise="orbit", chunk_size=None),
    "momentum 0, progressive": case("epsilon", "disc", momentum=0, noise="progressive"),
    "momentum 1, shared": case("epsilon", "text", momentum=1, noise="shared", scheduler="dpm++"),
    "resumed, own maps": case("v_prediction", dance, maps, mask(clip=MAPS, grow=1), frames=6, stop=5),
    "float16, overflowing": case("epsilon", "disc", depth(), dtype="float16", guidance_scale=1e6),
    "float16": case("epsilon", "disc", edges(), dtype="float16"),  # and no trace of that
    "bfloat16, unipc": case("sdxl", "text", dtype="bfloat16", scheduler="unipc"),
    "puppets, pose, flow": case("puppets", dance, pose(), chunk_size=3, **FLOW),
    "puppets, depth, euler": case("puppets", dance, depth(), prompt=ALONG, scheduler="euler", **FLOW),
    "puppets, invert, mask": case("puppets", wave, invert(), mask(), guidance_scale=2.0),
    "puppets, reference": case("puppets", wave, reference(image=PICTURE), edges(), scheduler="dpm++"),
    "puppets, cuts found": case("puppets", "shots", reference(scale=0.8), pose(), cuts="auto", frames=3),
    "puppets, no source": case("puppets", "text", reference(), noise="orbit", divergence=0.02),
    "puppets, resumed": case("puppets", "skeleton-jump", strength(), frames=5, stop=3, **FLOW),
    "puppets-instruct": case("puppets-instruct", wave, instruct(), mask(invert=True), **FLOW),
}


def draw(tiny: Path, folder: Path) -> None:
    """Draw all `CASES` by the zs2kit that is imported here, and save to ``folder`` those that don't fail."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    for name, drawn in CASES.items():
        try:
            np.save(folder / f"{name}.npy", drawn(tiny=tiny))
        except Exception:
            print(f"{name}: {traceback.format_exc()}", file=sys.stderr, flush=True)


def drawn_by(tree: Path, tiny: Path, folder: Path) -> Path:
    """Have the zs2kit in ``tree`` `draw`, in a process of its own; return the folder that it fills."""
    results = folder / "results"
    results.mkdir(parents=True)
    for name, source in (("zs2kit", "zs2kit"), ("zs2kit_plugins", "plugins")):
        (folder / name).symlink_to(tree / source)
    # -P, or Python would look for modules beside this file first
    command = [sys.executable, "-P", __file__, *map(str, (folder, tiny, results))]
    # its temporary files too go when it is killed
    given = {"PYTHONPATH": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if subprocess.run(command, env=os.environ | given).returncode:
        raise zs2kit.Zs2Error(f"nothing can be drawn by {tree}; what it printed says why")
    return results


def checkout(commit: str, folder: Path) -> Path:
    """Put the sources of ``commit`` into ``folder``, and return it."""
    command = ["git", "-C", str(ROOT), "archive", commit, "zs2kit", "plugins"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise zs2kit.Zs2Error(f"{ROOT} is no git repository that has a commit {commit}") from error
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def checkpoints(folder: Path) -> Path:
    """Fill ``folder`` with tiny models, of which ``distilled`` takes the guidance scale as an input."""
    tiny = tiny_models()
    for kind in ("epsilon", "v_prediction", "instruct", "sdxl"):
        shutil.copytree(tiny[kind], folder / kind)
    shutil.copytree(tiny["epsilon"], folder / "distilled")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "epsilon/unet")
    torch.manual_seed(0)
    distilled = diffusers.UNet2DConditionModel.from_config({**unet.config, "time_cond_proj_dim": 16})
    distilled.load_state_dict(unet.state_dict(), strict=False)
    distilled.save_pretrained(folder / "distilled/unet")
    return folder


def compare(names: Iterable[str], *folders: Path) -> int:
    """Print how the frames of these names differ in two folders; return how many names do."""
    changed = 0
    for name in names:
        files = [folder / f"{name}.npy" for folder in folders]
        before, now = (np.load(file) if file.exists() else np.empty(0, np.uint8) for file in files)
        if before.shape != now.shape or not now.size:
            says = f"was {before.shape}, is {now.shape}" if now.size else "fails"
        else:
            apart = np.abs(before.astype(int) - now).max(axis=3)
            says = f"up to {apart.max()} of 255, in {(apart > 0).sum()} pixels" if apart.any() else "equal"
        changed += says != "equal"
        print(f"{name:24} {len(now):6}  {says}")
    return changed


def run(commit: str) -> None:
    """Draw all `CASES` by ``commit`` and by this tree, and compare; `Zs2Error` if any of them differs."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trees = [checkout(commit, folder / "commit"), ROOT]
        tiny = checkpoints(folder / "tiny")
        results = [drawn_by(tree, tiny, folder / f"drawn{index}") for index, tree in enumerate(trees)]
        print(f"{'case':24} frames  now, and by {commit}")
        changed = compare(CASES, *results)
    print(f"{len(CASES)} cases, of which {changed} differ")
    if changed:
        raise zs2kit.Zs2Error(f"this tree draws other frames than {commit}")


if __name__ == "__main__":
    path, *given = map(Path, sys.argv[1:])
    for module in (zs2kit, import_module("zs2kit_plugins")):
        if not Path(str(module.__file__)).is_relative_to(path):
            raise ImportError(f"{module.__file__} is of another tree")
    draw(*given)
