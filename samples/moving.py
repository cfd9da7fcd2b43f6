"""Makes the README's moving picture, docs/moving.webp: three clips, each with its edit below.

Run it as: python samples/moving.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import zs2kit

ROOT = Path(__file__).parents[1]
RATE, SECONDS, SIDE, MARGIN, CAPTION = 12, 2.5, 224, 8, 22

# Of each edit: the sample, the prompt, and the options
EDITS = [
    ("knight-walk", "a pink knight in the snow", ["--plugin", "depth"]),
    ("clown-wave", "a blue clown on the beach", ["--plugin", "edges"]),
    ("robot-dance", "a blue knight on the beach", ["--plugin", "pose", "--seed", "3"]),
]


def main() -> None:
    """Draw the edits and write the picture."""
    columns = []
    with TemporaryDirectory() as folder:
        for name, prompt, options in EDITS:
            source, out = ROOT / "samples" / f"{name}.mp4", Path(folder) / f"{name}.mp4"
            command = ["edit", *options, "--prompt", prompt, str(source), "-o", str(out)]
            subprocess.run([sys.executable, "-m", "zs2kit", *command], check=True)
            columns.append((list(shown(source)), list(shown(out)), prompt))
    frames = [picture([(a[k], b[k], prompt) for a, b, prompt in columns]) for k in range(len(columns[0][0]))]
    frames[0].save(
        ROOT / "docs" / "moving.webp",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / RATE),
        loop=0,
        quality=80,
        method=6,
    )


def shown(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield a clip's pictures at RATE for SECONDS; after its end, it starts again."""
    clip = zs2kit.read(path)
    images = [frame.image for frame in clip]
    for index in range(round(RATE * SECONDS)):
        yield images[round(index / RATE * float(clip.rate)) % len(images)]


def picture(columns: list[tuple[NDArray[np.uint8], NDArray[np.uint8], str]]) -> Image.Image:
    """Return one frame: in each column the source, the result, and the prompt below."""
    width = len(columns) * (SIDE + MARGIN) - MARGIN
    whole = Image.new("RGB", (width, 2 * SIDE + MARGIN + CAPTION), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(13)
    for column, (source, result, prompt) in enumerate(columns):
        left = column * (SIDE + MARGIN)
        for row, image in enumerate((source, result)):
            small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            whole.paste(small, (left, row * (SIDE + MARGIN)))
        middle = left + SIDE / 2, 2 * SIDE + MARGIN + 4
        draw.text(middle, f'"{prompt}"', fill="black", font=font, anchor="ma")
    return whole


if __name__ == "__main__":
    main()
