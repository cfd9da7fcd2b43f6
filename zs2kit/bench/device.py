"""How fast a device edits: zs2kit in rows beside diffusers' own pipeline, and what the parts take."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import click
import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

import zs2kit
from zs2kit.attention import TemporalMomentum, attached
from zs2kit.bench.baselines import BATCH, GUIDANCE
from zs2kit.bench.cells import Cells
from zs2kit.bench.speed import UNETS, random_model
from zs2kit.carry import Carry
from zs2kit.clip import Chunk, Clip
from zs2kit.control import Control
from zs2kit.errors import Notice, Zs2Error
from zs2kit.model import Model
from zs2kit.motion import FlowMomentum
from zs2kit.networks.base import Branch, DenoiserInputs
from zs2kit.puppets.networks import SIZE
from zs2kit.puppets.world import Scene, motion_scenes, render
from zs2kit.puppets.yardsticks import Numbers
from zs2kit.quiet import quiet
from zs2kit.schedule import make_scheduler, steps_of

RULES = "row by row, a first time that doesn't count and two that do, or one of over 4 seconds"
REPEATS = 2
LONG = 4  # seconds, of which one time is enough
SIZES = (*UNETS, "puppets")
PROMPT = "a blue knight on the beach"
PIPELINE = "diffusers' pipeline, frame by frame"
FEW = {"scheduler": "lcm", "guidance_scale": 1.0}
ONLY = {"flow_momentum": 0.0}
# What an edit is timed with, beside so many steps as are asked for and a guidance of 5; the most important
# ones first, in case time runs out
ROWS: dict[str, dict[str, Any]] = {
    "edit": {},
    "edit without flow momentum": ONLY,
    "LCM, 4 steps": {**FEW, "num_inference_steps": 4},
    "edit without both momenta": {**ONLY, "momentum": 0.0},
    "LCM, 4 steps, without flow momentum": {**FEW, **ONLY, "num_inference_steps": 4},
    "LCM, 1 step, without flow momentum": {**FEW, **ONLY, "num_inference_steps": 1},
    "edit, whole VAE": {"tiny_vae": False},
    "LCM, 4 steps, in chunks of 1": {**FEW, "num_inference_steps": 4, "chunk_size": 1},
}
FIRST = 4  # of these rows; then come the parts, and then the others
PARTS = "parts"  # of an edit, in milliseconds
LAUNCHES = "launches"
BATCHES = "U-Net and ControlNet, batch of {}"
Found = Mapping[str, Mapping[str, float]]  # numbers by row, and by what they are


class Target(NamedTuple):
    """What is to be reached: a ratio of times, or frames a second on an H100 or H200."""

    says: str
    row: str  # or part
    over: str | None  # the row that it is divided by; None for frames a second
    wanted: float


TARGETS = [
    Target("edit over diffusers' pipeline", "edit", PIPELINE, 1.0),
    Target("flow momentum on over off", "edit", "edit without flow momentum", 1.1),
    Target("temporal momentum on over off", "edit without flow momentum", "edit without both momenta", 1.03),
    Target("U-Net and ControlNet, batch of 1 over batch of 8", BATCHES.format(1), BATCHES.format(8), 0.25),
]
RATES = {
    "sd15": [
        Target("LCM, 4 steps", "LCM, 4 steps", None, 30),
        Target("LCM, 1 step", "LCM, 1 step, without flow momentum", None, 60),
    ],
    "puppets": [Target("edit", "edit", None, 25)],
    "sdxl": [],
}


@dataclass(eq=False)
class Maps(Control):
    """Steers with the source's own pixels, by a ControlNet in a folder, so no detector is timed."""

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        """The source itself."""
        return images


class Edits:
    """Edits of a rendered clip by a model of one size, which is made or loaded when it is first needed.

    Models of Stable Diffusion's sizes have random weights, a tiny VAE of taesd's size among them, and their
    ControlNet is put into ``folder``.
    """

    def __init__(
        self, size: str, device: str | None, side: int, frames: int, steps: int, folder: Path
    ) -> None:
        self.size = size
        self.device = device
        self.steps = steps
        self.folder = folder
        scenes = motion_scenes(Scene("robot", "red", "city"), "dance", frames)
        self.images = np.stack([render(scene, side).image for scene in scenes])

    @cached_property
    def model(self) -> Model:
        """The model, with a tiny VAE."""
        if self.size == "puppets":
            return Model.load(device=self.device)
        base = random_model(self.size, self.device)
        with torch.device(base.device), quiet():
            tiny = diffusers.AutoencoderTiny().to(base.dtype)
            controlnet = diffusers.ControlNetModel.from_unet(base.unet)
        with quiet():
            controlnet.to(base.dtype).save_pretrained(self.folder)
        return Model(base.pipeline, base.name, tiny_vae=tiny)

    @property
    def where(self) -> Path:
        """Where its ControlNet is."""
        return self.model.bundled("controlnet_pose") or self.folder

    @cached_property
    def controlnet(self) -> Any:
        """The ControlNet, as diffusers' pipeline takes it."""
        return self.model.load_network(diffusers.ControlNetModel, self.where)

    @cached_property
    def maps(self) -> torch.Tensor:
        """The ControlNet's maps, (frames, 3, height, width) in [0, 1]."""
        maps = torch.from_numpy(self.images).permute(0, 3, 1, 2)
        return maps.to(self.model.device, self.model.dtype) / 255

    def edit(self, tiny_vae: bool = True, **how: Any) -> zs2kit.Edit:
        """Return an edit of the clip; ``how``: settings other than the defaults."""
        model = self.model
        return zs2kit.edit(
            Clip.from_images(self.images, 12),
            PROMPT,
            plugins=[Maps(model=str(self.where))],
            model=model if tiny_vae else Model(model.pipeline, model.name, model.folders),
            **{
                "guidance_scale": GUIDANCE,
                "num_inference_steps": self.steps,
                "size": self.images.shape[1:3],
                "cuts": (),
                **how,
            },
        )

    def row(self, name: str) -> Numbers:
        """Time one of `ROWS`; return its seconds, megabytes, and how many frames are drawn at once."""
        told: list[Notice] = []
        edited = self.edit(**ROWS[name], notices=told.append)
        found = self._timed(lambda: list(edited))
        for notice in told:
            click.echo(f"{name}: {notice}", err=True)
        overflowed = any(notice.kind == "overflow" for notice in told)
        return {
            **found,
            "MB of the carry": edited.carry.nbytes / 1e6,
            "at once": float(edited.chunk_size or 0),
            "drawn again in float32": float(overflowed),
        }

    def pipeline(self) -> Numbers:
        """Time diffusers' own pipeline."""
        return self._timed(lambda: by_pipeline(self.model, self.controlnet, self.maps, self.steps))

    def _timed(self, work: Callable[[], object]) -> Numbers:
        gc.collect()  # what the row before has held
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        seconds, peak = timed(work, self.model.device)
        return {"seconds": seconds, **({} if peak is None else {"MB at the peak": peak / 1e6})}

    def works(self) -> dict[str, Callable[[], Numbers]]:
        """Return all that is measured, by row, the most important ones first."""
        rows = [(name, partial(self.row, name)) for name in ROWS]
        return {
            PIPELINE: self.pipeline,
            **dict(rows[:FIRST]),
            PARTS: lambda: parts(self.model, self.controlnet, self.maps, self.images[[0, -1]]),
            **dict(rows[FIRST:]),
            LAUNCHES: lambda: launches(self.edit, self.model.device),
        }


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, int | None]:
    """Seconds, the median after a first time that doesn't count, and the device's peak memory in bytes.

    One time is enough if it is `LONG`.
    """
    cuda = device.type == "cuda"
    seconds = []
    for _ in range(1 + REPEATS):
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        start = perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append(perf_counter() - start)
        if len(seconds) > 1 and seconds[-1] > LONG:
            break
    return median(seconds[1:]), torch.cuda.max_memory_allocated(device) if cuda else None


def by_pipeline(model: Model, controlnet: Any, maps: torch.Tensor, steps: int) -> None:
    """Draw all frames by diffusers' ControlNet pipeline, with as many at once as zs2kit takes at most."""
    used = dict(model.pipeline.components)
    kind: Any = diffusers.StableDiffusionXLControlNetPipeline
    if not hasattr(model.pipeline, "text_encoder_2"):
        kind = diffusers.StableDiffusionControlNetPipeline
        used |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    used["scheduler"] = make_scheduler("ddim", model.pipeline.scheduler.config, steps)
    with quiet():
        pipeline = kind(**used, controlnet=controlnet)
        pipeline.set_progress_bar_config(disable=True)
        for part in torch.split(maps, BATCH):
            height, width = part.shape[2:]
            pipeline(
                [PROMPT] * len(part),
                image=part,
                height=height,
                width=width,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                output_type="np",
            )


@torch.no_grad()
def parts(model: Model, controlnet: Any, maps: torch.Tensor, two: NDArray[np.uint8]) -> Numbers:
    """Milliseconds of the calls that an edit is made of."""
    height, width = maps.shape[2:]
    latents = torch.randn(BATCH, *model.latent_shape(height, width)).to(model.device, model.dtype)
    maps = maps[:1].expand(BATCH, -1, -1, -1)
    embeds = model.embed(PROMPT, "", height, width)[0]
    branch = Branch("text", 1.0, *embeds)
    step = steps_of(model.network.begin("ddim", 2, *latents.shape[2:]))[0]

    def call(batch: int) -> None:
        conditions = {name: each.expand(batch, *each.shape[1:]) for name, each in embeds.conditions.items()}
        prompts = embeds.prompt_embeds.expand(batch, -1, -1)
        down, mid = controlnet(
            latents[:batch],
            step.timestep,
            prompts,
            maps[:batch],
            added_cond_kwargs=conditions or None,
            return_dict=False,
        )
        given = [DenoiserInputs(down, mid)]
        model.network.predict(latents[:batch], step, [branch], prompts, conditions, given)

    pictures = maps.float() * 2 - 1
    flowing = FlowMomentum(0.95, model, two, Carry(), Carry())

    def flow() -> None:
        FlowMomentum(0.95, model, two, Carry(), Carry()).flows  # noqa: B018

    works: dict[str, Callable[[], object]] = {
        BATCHES.format(BATCH): lambda: call(BATCH),
        BATCHES.format(1): lambda: call(1),
        "decoding 8 frames": lambda: model.decode(latents.float()),
        "encoding 8 frames": lambda: model.encode(pictures),
        "the same by the tiny VAE, decoding": lambda: model.estimates.decode(latents.float()),
        "the same by the tiny VAE, encoding": lambda: model.estimates.encode(pictures),
        "the flow of one frame, both ways and checked": flow,
        "averaging one frame": lambda: flowing.average("", pictures[:2]),
    }
    networks = {model.network.name: model.network.module, "controlnet": controlnet}
    with attached(networks, TemporalMomentum(0.0, Carry(), Carry()), model.launches().run):
        for batch in 2 * (BATCH, 1):  # a call is recorded at the second time
            call(batch)
        return {name: 1000 * timed(work, model.device)[0] for name, work in works.items()}


def launches(edit: Callable[..., zs2kit.Edit], device: torch.device) -> Numbers:
    """How many kernels a denoising step launches on CUDA; on a CPU, how many operators of torch it calls."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    wanted = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch") if cuda else ("aten::",)
    counts: list[int] = []
    for steps in (1, 3):
        edited = edit(num_inference_steps=steps, **ONLY)
        for _ in range(2 * edited.scan.denoiser.launches.records):  # until all calls are replayed
            next(iter(edited))
        with profile(activities=activities) as profiled:
            next(iter(edited))
        events = profiled.key_averages()
        counts.append(sum(each.count for each in events if each.key.startswith(wanted)))
    return {f"{'kernels launched' if cuda else 'operators called'} a step": (counts[1] - counts[0]) / 2}


def table(about: Mapping[str, Any], found: Found) -> str:
    """Markdown: rows, parts and targets of one model on one device, as far as they are measured."""
    lines = [
        "| what | seconds | frames a second | at once | MB at the peak | MB of the carry |",
        "|---|---|---|---|---|---|",
    ]
    for row in (*ROWS, PIPELINE):
        if (numbers := found.get(row)) is not None:
            seconds, says = numbers["seconds"], row
            if numbers.get("drawn again in float32"):
                says += " (overflows, so drawn again in float32)"
            known = [numbers.get(name) for name in ("at once", "MB at the peak", "MB of the carry")]
            shown = " | ".join("" if each is None else f"{each:,.0f}" for each in known)
            lines.append(f"| {says} | {seconds:.2f} | {about['frames'] / seconds:.2f} | {shown} |")
    lines += ["", "| part | |", "|---|---|"]
    lines += [f"| {name}, ms | {value:,.1f} |" for name, value in found.get(PARTS, {}).items()]
    lines += [f"| {name} | {value:,.1f} |" for name, value in found.get(LAUNCHES, {}).items()]
    lines += ["", "| target | to reach | reached |", "|---|---|---|"]
    for target in (*TARGETS, *RATES[about["rows"]]):
        if (value := _reached(target, found, about["frames"])) is not None:
            wanted = f"{'at most' if target.over else 'at least'} {target.wanted:g}"
            lines.append(f"| {target.says} | {wanted} | {value:.2f} |")
    return "\n".join(lines)


def _reached(target: Target, found: Found, frames: int) -> float | None:
    """Return what was reached of a target; None if that isn't measured yet."""
    times = {row: numbers["seconds"] for row, numbers in found.items() if "seconds" in numbers}
    times |= found.get(PARTS, {})
    if target.row not in times or (target.over or target.row) not in times:
        return None
    return times[target.row] / times[target.over] if target.over else frames / times[target.row]


def run(cells: Cells, size: str, device: str | None, side: int | None, frames: int, steps: int) -> None:
    """Measure one size of model on one device, as far as that isn't done already, and print what was found.

    Each row is saved as soon as it is measured, so that a run that was killed can go on. They are written to
    ``cells``, from which docs/results.md is made. Rows that fail are left out; at the end, `Zs2Error` is
    raised.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    side = side or (UNETS[size]["sample_size"] * 8 if size in UNETS else SIZE)
    cuda = where.type == "cuda" and torch.cuda.is_available()  # else loading says what is wrong
    about = {
        "rows": size,
        "on": torch.cuda.get_device_name(where) if cuda else f"CPU, {torch.get_num_threads()} thread(s)",
        "side": side,
        "frames": frames,
        "steps": steps,
    }
    click.echo(f"{size}, {side}x{side}, {frames} frames, {steps} steps, on {about['on']}\n")
    with TemporaryDirectory() as folder:
        edits = Edits(size, device, side, frames, steps, Path(folder))
        found: dict[str, Numbers] = {}
        failed = []
        for row, work in edits.works().items():
            start = perf_counter()
            try:
                ((_, numbers),) = cells.rows(about, RULES, {row: work})
            except Exception:
                click.echo(f"{row}: {traceback.format_exc(-4)}", err=True)
                failed.append(row)
                continue
            found[row] = numbers
            says = ", ".join(f"{name} {value:,.2f}" for name, value in numbers.items())
            click.echo(f"{row}: {says} (took {perf_counter() - start:.0f} s)")
    click.echo(f"\n{table(about, found)}")
    if failed:
        raise Zs2Error(f"not timed: {', '.join(failed)}", "what each of them says is above")


def section(cells: Cells) -> str:
    """The tables of all sizes and devices that were measured."""
    text = ""
    for about, found in sorted(cells.found("rows", RULES), key=lambda cell: str(cell[0])):
        title = f"{about['rows']}, {about['side']}x{about['side']}, on {about['on']}"
        text += (
            f"\n### {title}\n\n{about['frames']} frames, {about['steps']} steps.\n\n{table(about, found)}\n"
        )
    return f"{ABOUT}{text}" if text else ""


ABOUT = """
## Edits on a device

Seconds for a clip whose maps are given, the median of two (or one of over 4 seconds) after one that doesn't
count. "At once" is the number of frames in a chunk, which zs2kit chooses by the memory that is free. LCM runs
without guidance. The larger models have random weights, and a tiny VAE of taesd's size. The pipeline is
diffusers' StableDiffusionControlNetPipeline, or XL's, which draws frame by frame, 8 frames at once, decoding
included.
"""
