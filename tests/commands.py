"""Runs every command of the README and of the pages in docs as it is written, and says which ones fail.

    python tests/commands.py [PAGE ...]

Each page is run in an empty folder that has the files which its commands name: a clip, numbered pictures, and
in place of the checkpoints that one would download, tiny ones with random weights. The README's own commands
for getting and installing zs2kit work on a clone of this repository. `test_commands.py` runs the commands of
zs2kit itself, at one step.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from test_detectors import tiny_depth
from test_metrics import tiny_clip
from test_specialised import lora, saved, single_file

import zs2kit
from zs2kit.networks.rife import Rife
from zs2kit.testing import tiny_model, tiny_models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What can't be run without the world outside
OUTSIDE = {
    "ffmpeg": "FFmpeg's programs and a screen",
    "hf": "a network",
    "twine": "an account at a package index",
}
RESULTS = ["*-*.mp4", "*-*.mov", "*-*.png", "*-*.exr", "part.mp4", "cut.mov", "*.json", "frames"]
DIFFUSE = "--then diffuse"
ON_THE_HUB = r"(?<![\w./-])[\w-]+/[\w.-]*[a-z][\w.-]*(?![\w/])"


class Command(NamedTuple):
    """A line of a page, with the lines before it that it rests on: cd, export and activation."""

    line: str
    before: str


def commands(page: Path) -> list[Command]:
    """The commands in the page's ```sh blocks, continued lines joined."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        before = ""
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(("cd ", "export ", "source ")):
                before += f"{line} && "
            elif not line.startswith("zs2kit web"):  # which goes on until it is interrupted; see test_web.py
                found.append(Command(line, before))
    return found


def words(line: str) -> list[str]:
    """The line's words, without a comment at its end."""
    return shlex.split(line, comments=True)


def prepare(folder: Path, page: Path, frames: int | None = None) -> dict[str, str]:
    """Fill ``folder`` with what the page's commands name; return the environment to run them in.

    frames: how many frames the clips have, as few as that; None: those of the samples, whole.
    """
    (folder / "docs").mkdir()
    (folder / "samples").mkdir()
    for sample in (ROOT / "samples").iterdir():
        if sample.suffix == ".mp4" and frames is not None:
            shortened(sample, folder / "samples" / sample.name, frames)
        elif sample.is_file():
            shutil.copy(sample, folder / "samples")
    clip = folder / "samples" / "knight-walk.mp4"
    (folder / "prompts.csv").write_text("clip,prompt\none.mp4,a red robot\ntwo.mp4,a blue knight\n")
    for name in ("clip.mp4", "one.mp4", "two.mp4", "jump.mp4", "result.mp4", "clip-pose.mp4"):
        shutil.copy(clip, folder / name)
    zs2kit.write(folder / "part.mp4", zs2kit.read(clip, start=1, end=2))
    pictures = [frame.image for frame in zs2kit.read(clip)]
    shot = [pictures[number % len(pictures)] for number in range(14)]
    zs2kit.write(folder / "shot.%04d.png", zs2kit.Clip.from_images(shot, 24))
    zs2kit.write(folder / "shot.%04d.exr", zs2kit.Clip.from_images(shot[:8], 24), start_number=1001)
    masks = zs2kit.Clip.from_images([np.zeros_like(image) for image in pictures], zs2kit.read(clip).rate)
    zs2kit.write(folder / "masks.mp4", masks)
    if look := re.search(r"^```toml\n(prompt.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        (folder / "look.toml").write_text(look[1])
    hub = folder / "hub"
    checkpoints(folder, hub, page)
    # Small pictures where each is drawn again at four times its size
    small = {"ZS2KIT_SIZE": "32x32"} if DIFFUSE in page.read_text(encoding="utf-8") else {}
    return {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub), "HOME": str(folder), **small}


def shortened(clip: Path, to: Path, frames: int) -> None:
    """Write ``frames`` frames from all over the clip, over the same time."""
    source = zs2kit.read(clip)
    images = [frame.image for frame in source]
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, frames).round().astype(int)]
    zs2kit.write(to, zs2kit.Clip.from_images(chosen, source.rate * frames / len(images)))


# Repositories -> the tiny models that take their place, where that isn't one like Stable Diffusion 1
OTHERS = {
    "FLUX.1-Depth-dev": "flux-control",
    "FLUX.1-dev": "flux-dev",
    "FLUX.1-Fill-dev": "flux-fill",
    "FLUX.2-klein-4B": "flux2-klein",
    "Z-Image-Turbo": "z-image",
    "stable-diffusion-x4-upscaler": "upscaler",
}


def checkpoints(folder: Path, hub: Path, page: Path) -> None:
    """Put tiny models where the page's commands name some, in the folder or on the hub."""
    text = " ".join(command.before + command.line for command in commands(page))
    named = {name for name in re.findall(ON_THE_HUB, text) if not (folder / name).exists()}
    for name in re.findall(r"upscale\.model=(\S+)", text):
        save_file(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=4).state_dict(), folder / name)
    if "flownet.pkl" in text:
        torch.save(Rife().state_dict(), folder / "flownet.pkl")
    if DIFFUSE in text:
        named.add("stabilityai/stable-diffusion-x4-upscaler")
    if not named and not re.search("sd15|my-checkpoint", text):
        return
    base = tiny_model(folder / "sd15", unet={"cross_attention_dim": 768})
    model = zs2kit.Model.load(base)
    for copy in ("my-checkpoint", "models/sd15"):
        shutil.copytree(base, folder / copy)
    shutil.copytree(base / "controlnet_pose", folder / "openpose")
    saved(single_file(model), folder / "dreamy.safetensors")
    saved(lora(model), folder / "clay.safetensors")
    saved({"<cat-toy>": torch.randn(768)}, folder / "cat-toy.safetensors")
    named |= {"lllyasviel/control_v11p_sd15_openpose", "depth-anything/Depth-Anything-V2-Small-hf"}
    for name in named:
        stored = hub / f"models--{name.replace('/', '--')}"
        (stored / "refs").mkdir(parents=True)
        (stored / "refs" / "main").write_text("0" * 40)
        snapshot = stored / "snapshots" / ("0" * 40)
        if "lora" in name:
            snapshot.mkdir(parents=True)
            saved(lora(model, seed=1), snapshot / "pytorch_lora_weights.safetensors")
        elif "control" in name:
            shutil.copytree(base / "controlnet_pose", snapshot)
        elif "Depth-Anything" in name:
            tiny_depth(snapshot)
        elif "clip" in name:
            snapshot.mkdir(parents=True)
            tiny_clip(snapshot)
        else:
            kind = OTHERS.get(name.partition("/")[2])
            shutil.copytree(tiny_models()[kind] if kind else base, snapshot)


class Ran(NamedTuple):
    """How a command ended."""

    status: int | None  # None: it wasn't run
    says: str  # what it printed, or why it wasn't run
    seconds: float = 0.0


def run(command: Command, folder: Path, environment: dict[str, str]) -> Ran:
    """Run a command by bash in ``folder``."""
    first = re.split(r"[ \n]", command.line)[0]
    if first in OUTSIDE:
        return Ran(None, f"needs {OUTSIDE[first]}")
    if re.search(r"bench speed|-m gpu", command.line):
        return Ran(None, "needs a GPU")
    if "venv/bin/pip" in command.line:
        return Ran(None, "run by .ci/run")
    line = command.line.replace("REPOSITORY", shlex.quote(str(ROOT)))
    begun = time.monotonic()
    with earlier_results_aside(command, folder):
        ran = subprocess.run(
            ["bash", "-c", f"set -e; {command.before}{line}"],
            cwd=folder,
            env=os.environ | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return Ran(ran.returncode, ran.stdout.strip(), time.monotonic() - begun)


@contextmanager
def earlier_results_aside(command: Command, folder: Path) -> Iterator[None]:
    """Within this context a command that makes a clip doesn't find the results of those before it.

    Several commands of a page make the same file, since a reader picks one of them.
    """
    names = RESULTS if re.search(r"zs2kit (edit|filter|generate|plan) ", command.line) else []
    found = [path for name in names for path in folder.glob(name)]
    found = [path for path in found if f"--settings {path.name}" not in command.line]
    with TemporaryDirectory() as aside:
        for path in found:
            shutil.move(path, aside)
        try:
            yield
        finally:
            for path in found:
                if not path.exists():
                    shutil.move(Path(aside) / path.name, path)


def environment(folder: Path) -> dict[str, str]:
    """Make a virtual environment in which zs2kit is this one, and which commands may install into."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    places = "; ".join(f"site.addsitedir({place!r})" for place in sys.path if "site-packages" in place)
    (site / "this.pth").write_text(f"import site; {places}\n")
    for name, main in {"zs2kit": "from zs2kit.cli import main", "pytest": "from pytest import main"}.items():
        script = folder / "bin" / name
        script.write_text(f"#!{folder}/bin/python -P\nimport sys\n{main}\nsys.exit(main())\n")
        script.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": ""}


def main() -> int:
    """Run the pages that are named, or all; print a line a command; 1 if one failed."""
    chosen = [ROOT / page for page in sys.argv[1:]] or PAGES
    failed = 0
    for page in chosen:
        if not (found := commands(page)):
            continue
        print(f"\n{page.relative_to(ROOT)}", flush=True)
        with TemporaryDirectory() as work:
            variables = prepare(Path(work), page) | environment(Path(work, ".venv"))
            for command in found:
                ran = run(command, Path(work), variables)
                how = "left out" if ran.status is None else "failed" if ran.status else "ok"
                print(f"  {how:8} {ran.seconds:5.1f} s  {command.line}", flush=True)
                if ran.status is None or ran.status:
                    failed += ran.status is not None
                    print(f"           {ran.says}", flush=True)
    print(f"\n{failed} failed" if failed else "\nall that was run is right")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
