"""Makes the README's pictures: runs its commands that end in `--sheet docs/NAME.png`, or those named.

python samples/gallery.py [NAME ...]
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]


def commands() -> dict[str, list[str]]:
    """The README's commands by the name of the picture that they make."""
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^zs2kit (.* --sheet docs/(\w+)\.png)$", readme, re.M)
    return {name: shlex.split(arguments) for arguments, name in lines}


def main() -> None:
    """Run them, each in a process of its own."""
    found = commands()
    for name in sys.argv[1:] or found:
        with TemporaryDirectory() as folder:
            command = [*found[name], "--overwrite", "-o", f"{folder}/out.mp4"]
            subprocess.run([sys.executable, "-m", "zs2kit", *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
