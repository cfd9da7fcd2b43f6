"""A post-production script: one model, several clips, each in its own style.

python samples/batch.py OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import zs2kit
from zs2kit_plugins.pose import Pose

STYLES = {
    "robot-dance": "a blue knight dancing on the beach",
    "knight-walk": "an orange robot walking through the snow",
    "clown-wave": "a purple wizard in space",
}


def main(folder: Path) -> None:
    """Edit every sample and write it to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    model = zs2kit.Model.load()
    for name, prompt in STYLES.items():
        clip = zs2kit.read(Path(__file__).with_name(f"{name}.mp4"))
        edited = zs2kit.edit(clip, prompt, plugins=[Pose(scale=1.0)], model=model, seed=3)
        print(zs2kit.write(folder / f"{name}.mp4", edited, overwrite=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
