"""Makes pictures for pages of docs, each named after its page: all of them, or those named.

python samples/pictures.py [NAME ...]
"""

from __future__ import annotations

import os
import pty
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from importlib.resources import files
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.text import Text

import zs2kit
from zs2kit_plugins.pose import Pose
from zs2kit_plugins.strength import Strength

ROOT = Path(__file__).parents[1]
HEIGHT, GAP, CAPTION, MARGIN = 192, 12, 24, 90  # pixels; the margin has the rows' names
SHOWN = 6  # the number of the frame that is shown of a file
FRAMES = 6  # of an edit that is measured, or a clip that is damaged
COLUMNS = 100  # of a terminal
BT2020, PQ = 9, 16
TO_BT2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]  # of BT.709's

Picture = NDArray[np.uint8]


class Kind(NamedTuple):
    """A kind of file: how its pictures are made, and how they are stored and read."""

    caption: str
    pictures: list[NDArray[Any]]
    stream: dict[str, Any]  # attributes of the stream's codec context
    turn: int = 0
    deinterlace: bool = False


def kinds(images: list[Picture]) -> Iterator[Kind]:
    """Yield one of each; ``images`` are its frames as they should look."""
    yield Kind("a rotation tag", [np.rot90(each) for each in images], {}, turn=-90)
    narrow = [cv2.resize(each, None, fx=0.5, fy=1, interpolation=cv2.INTER_AREA) for each in images]
    yield Kind("wide pixels", narrow, {"sample_aspect_ratio": Fraction(2)})
    woven = []
    for first, second in zip(images[::2], images[1::2], strict=False):
        woven.append(first.copy())
        woven[-1][1::2] = second[1::2]
    yield Kind("interlaced", woven, {"options": {"flags": "+ildct+ilme"}}, deinterlace=True)
    about = {"colorspace": BT2020, "color_primaries": BT2020, "color_trc": PQ, "pix_fmt": "yuv420p10le"}
    yield Kind("HDR", [in_pq(each) for each in images], about)


def in_pq(image: Picture) -> NDArray[np.uint16]:
    """Return a picture in BT.2020 and PQ (SMPTE ST 2084), white at 203 cd/m²."""
    value = image / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)  # sRGB
    power = (light @ np.array(TO_BT2020).T * 203 / 10_000) ** 0.1593017578125
    pq = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    return np.round(pq * 65535).astype(np.uint16)


def write(path: Path, kind: Kind, rate: Fraction) -> None:
    """Encode it."""
    with av.open(str(path), "w") as container:
        height, width = kind.pictures[0].shape[:2]
        video = container.add_stream("libx264", rate, width=width, height=height)
        video.pix_fmt = "yuv420p"
        for name, value in kind.stream.items():
            setattr(video.codec_context, name, value)
        video.options = {"crf": "12", **kind.stream.get("options", {})}
        if kind.turn:
            video.set_display_rotation(kind.turn)
        for image in kind.pictures:
            layout = "rgb24" if image.dtype == np.uint8 else "rgb48le"
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), layout)
            matrix = kind.stream.get("colorspace", "ITU601")
            container.mux(video.encode(frame.reformat(format=video.pix_fmt, dst_colorspace=matrix)))
        container.mux(video.encode())


def stored(path: Path, number: int) -> Picture:
    """Return a frame's numbers as they are in the file, whatever its tags say."""
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return frame.to_ndarray(format="rgb24")
    raise AssertionError


def fitted(image: Picture, wide: float = 1) -> Image.Image:
    """Return a picture of a row's height; wide: the shape of its pixels."""
    size = round(HEIGHT * image.shape[1] * wide / image.shape[0]), HEIGHT
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def save(name: str, captions: Sequence[str], rows: Mapping[str, Sequence[Image.Image]]) -> None:
    """Write docs/NAME.webp: rows of pictures, each with its name on the left, and captions above them."""
    widths = [max(each.width for each in column) for column in zip(*rows.values(), strict=True)]
    margin, top = MARGIN * any(rows), CAPTION * any(captions)
    size = margin + sum(widths) + GAP * (len(widths) - 1), top + len(rows) * (HEIGHT + GAP) - GAP
    whole = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(15)
    for row, (title, pictures) in enumerate(rows.items()):
        upper, left = top + row * (HEIGHT + GAP), margin
        draw.text((0, upper + HEIGHT / 2), title, "black", font, anchor="lm")
        for picture, width, caption in zip(pictures, widths, captions, strict=True):
            whole.paste(picture, (left + (width - picture.width) // 2, upper))
            if row == 0:
                draw.text((left + width / 2, 4), caption, "black", font, anchor="ma")
            left += width + GAP
    whole.save(ROOT / "docs" / f"{name}.webp", quality=88, method=6)


def clips() -> None:
    """Frames as four files store them, and as zs2kit reads them."""
    clip = zs2kit.read(ROOT / "samples" / "robot-dance.mp4")
    images = [frame.image[32:224] for frame in clip]
    captions, before, after = [], [], []
    with TemporaryDirectory() as folder:
        for kind in kinds(images):
            path = Path(folder, "clip.mp4")
            write(path, kind, clip.rate)
            read = zs2kit.read(path, deinterlace=kind.deinterlace)
            captions.append(kind.caption)
            before.append(fitted(stored(path, SHOWN)))
            after.append(fitted(read.frame(SHOWN).image, float(read.sample_aspect_ratio)))
    save("clips", captions, {"in the file": before, "as read": after})


def reliability() -> None:
    """Frames of a clip of which a part is damaged, as OpenCV reads them, and as zs2kit does."""
    clip = zs2kit.read(ROOT / "samples" / "robot-dance.mp4")
    images = [frame.image for frame in clip]
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write(path, Kind("", images, {"options": {"bf": "0", "slices": "1"}}), clip.rate)
        whole = [fitted(each.image) for each in zs2kit.read(path)]
        with av.open(str(path)) as container:
            packet = [each for each in container.demux(video=0) if each.size][SHOWN]
        data = bytearray(path.read_bytes())
        data[packet.pos : packet.pos + packet.size] = np.random.default_rng(1).bytes(packet.size)
        path.write_bytes(data)
        capture = cv2.VideoCapture(str(path))
        blank = np.full_like(images[0], 255)
        theirs = []
        for _ in images:
            there, image = capture.read()
            theirs.append(fitted(image[..., ::-1] if there else blank))
        ours = [fitted(each.image) for each in zs2kit.read(path)]
    rows = {"undamaged": whole, "OpenCV": theirs, "zs2kit": ours}
    some = slice(SHOWN - 1, SHOWN - 1 + FRAMES)
    save("reliability", [""] * FRAMES, {name: pictures[some] for name, pictures in rows.items()})


def cli() -> None:
    """A terminal: what an edit takes, how far it is, and the result."""
    prompt = "a blue knight on the beach"
    words = ["--plugin", "pose", "--prompt", prompt, "samples/robot-dance.mp4"]
    shown = Console(record=True, width=COLUMNS, file=StringIO())
    with TemporaryDirectory() as folder:
        for command in ("plan", "edit"):
            shown.print(f"[bold]$ zs2kit {command} {shlex.join(words)}", highlight=False)
            whole = [sys.executable, "-m", "zs2kit", command, *words]
            if command == "plan":
                says = Text(subprocess.run(whole, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout)
            else:
                says = in_terminal([*whole, "-o", str(Path(folder, "out.mp4"))], " 8 of 32 frames, step 9")
            shown.print(says)
    made = shown.export_svg(title="zs2kit")
    made = re.sub(r"@font-face \{.*?\}", "", made, flags=re.DOTALL)  # which would be fetched from elsewhere
    (ROOT / "docs" / "cli.svg").write_text(made, encoding="utf-8")


def in_terminal(command: Sequence[str], enough: str) -> Text:
    """Run a command in a terminal until a line shows this; return that line."""
    moves = re.compile(r"\r\n|\r?\x1b\[2K|\x1b\[\??\d*[A-HJ-lK]|\r")  # of the cursor
    ours, theirs = pty.openpty()
    about = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    files = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    with subprocess.Popen(command, cwd=ROOT, env=about, **files) as running:
        os.close(theirs)
        said, line = b"", Text()
        while enough not in line.plain:
            said += os.read(ours, 65536)
            line = Text.from_ansi(moves.split(said.decode(errors="ignore"))[-1])
        running.terminate()
        with suppress(OSError):  # once it has ended
            while os.read(ours, 65536):
                pass
    os.close(ours)
    return line


def part(name: str, frames: int) -> zs2kit.Clip:
    """Return the first frames of a sample."""
    clip = zs2kit.read(ROOT / "samples" / f"{name}.mp4")
    return zs2kit.Clip.from_images([clip.frame(number).image for number in range(frames)], clip.rate)


def shown(clip: zs2kit.Clip) -> list[Image.Image]:
    """Return all frames of a clip."""
    return [fitted(frame.image) for frame in clip]


def options() -> None:
    """A frame at several values of an option."""
    source = part("knight-walk", 1)
    values = (0.3, 0.5, 0.7, 0.9)
    made = [
        zs2kit.edit(source, "a red robot on the beach", plugins=[Strength(strength=value)])
        for value in values
    ]
    captions = ["the source", *(f"strength.strength={value}" for value in values)]
    save("options", captions, {"": [picture for clip in (source, *made) for picture in shown(clip)]})


def metrics() -> None:
    """An edit as it is by default, and one in which each frame is drawn alone."""
    source = part("clown-wave", FRAMES)
    how = {"prompt": "a blue clown on the beach", "plugins": [Pose()]}
    alone = {"noise": "independent", "momentum": 0, "flow_momentum": 0}
    rows, said = {"the source": shown(source)}, {}
    for name, further in {"steady": {}, "flickering": alone}.items():
        with TemporaryDirectory() as folder:
            path = zs2kit.write(Path(folder, "out.mkv"), zs2kit.edit(source, **how, **further), codec="ffv1")
            rows[name] = shown(zs2kit.read(path))
            said[name] = zs2kit.metrics.measure(zs2kit.read(path), source)
    save("metrics", [""] * FRAMES, rows)
    for name in said["steady"]:
        print(f"{name}: {', '.join(f'{each} {numbers[name]:.4f}' for each, numbers in said.items())}")


def plugins() -> None:
    """What the plugin does that `zs2kit plugins new` writes."""
    source = part("knight-walk", 1)
    example = runpy.run_path(str(files("zs2kit") / "template" / "plugin" / "zs2kit_example.py"))["Example"]
    captions, made = ["the source"], shown(source)
    for width in (0.1, 0.2, 0.3):
        captions.append(f"example.width={width}")
        made += shown(
            zs2kit.edit(source, "a red robot in the desert", plugins=[example(width=width), Strength()])
        )
    save("plugins", captions, {"": made})


def main() -> None:
    """Make them."""
    make = {each.__name__: each for each in (cli, clips, metrics, options, plugins, reliability)}
    for name in sys.argv[1:] or make:
        make[name]()


if __name__ == "__main__":
    main()
