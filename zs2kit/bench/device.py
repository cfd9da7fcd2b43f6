"""How fast a device edits: zs2kit in rows beside diffusers' own pipeline, and what the parts take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
from zs2kit.model import Model
from zs2kit.motion import FlowMomentum
from zs2kit.networks.base import Branch, DenoiserInputs
from zs2kit.puppets.networks import SIZE
from zs2kit.puppets.world import Scene, motion_scenes, render
from zs2kit.quiet import quiet
from zs2kit.schedule import make_scheduler, steps_of

RULES = "in rows, a first time that doesn't count and two that do"
SIZES = (*UNETS, "puppets")
PROMPT = "a blue knight on the beach"
FEW = {"scheduler": "lcm", "guidance_scale": 1.0}
ONLY = {"flow_momentum": 0.0}
# What an edit is timed with, beside so many steps as are asked for and a guidance of 5
ROWS: dict[str, dict[str, Any]] = {
    "edit": {},
    "edit, whole VAE": {"tiny_vae": False},
    "edit without flow momentum": ONLY,
    "edit without both momenta": {**ONLY, "momentum": 0.0},
    "LCM, 4 steps": {**FEW, "num_inference_steps": 4},
    "LCM, 4 steps, without flow momentum": {**FEW, **ONLY, "num_inference_steps": 4},
    "LCM, 4 steps, in chunks of 1": {**FEW, "num_inference_steps": 4, "chunk_size": 1},
    "LCM, 1 step, without flow momentum": {**FEW, **ONLY, "num_inference_steps": 1},
}
PIPELINE = "diffusers' pipeline, frame by frame"


class Target(NamedTuple):
    """What is to be reached: a ratio of seconds, or frames a second on an H100 or H200."""

    says: str
    value: Callable[[Mapping[str, float]], float]
    bound: str
    wanted: float


def _ratio(ours: str, theirs: str) -> Callable[[Mapping[str, float]], float]:
    return lambda found: found[ours] / found[theirs]


def _rate(row: str) -> Callable[[Mapping[str, float]], float]:
    return lambda found: found["frames"] / found[f"{row}, seconds"]


TARGETS = [
    Target("edit over diffusers' pipeline", _ratio("edit, seconds", f"{PIPELINE}, seconds"), "at most", 1.0),
    Target(
        "flow momentum on over off",
        _ratio("edit, seconds", "edit without flow momentum, seconds"),
        "at most",
        1.1,
    ),
    Target(
        "temporal momentum on over off",
        _ratio("edit without flow momentum, seconds", "edit without both momenta, seconds"),
        "at most",
        1.03,
    ),
    Target(
        "U-Net and ControlNet, batch of 1 over batch of 8",
        _ratio("U-Net and ControlNet, batch of 1, ms", "U-Net and ControlNet, batch of 8, ms"),
        "at most",
        0.25,
    ),
]
# Frames a second
RATES = {
    "sd15": [
        Target("LCM, 4 steps", _rate("LCM, 4 steps"), "at least", 30),
        Target("LCM, 1 step", _rate("LCM, 1 step, without flow momentum"), "at least", 60),
    ],
    "puppets": [Target("edit", _rate("edit"), "at least", 25)],
    "sdxl": [],
}


@dataclass(eq=False)
class Maps(Control):
    """Steers with the source's own pixels, by a ControlNet in a folder, so no detector is timed."""

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        """The source itself."""
        return images


@contextmanager
def made(size: str, device: str | None) -> Iterator[tuple[Model, str]]:
    """Give a model of a size, and where its ControlNet lies.

    Those of Stable Diffusion's sizes have random weights, a tiny VAE of taesd's size among them.
    """
    with TemporaryDirectory() as folder:
        if size == "puppets":
            yield Model.load(device=device), "controlnet_pose"
            return
        base = random_model(size, device)
        with torch.device(base.device):
            tiny = diffusers.AutoencoderTiny().to(base.dtype)
            controlnet = diffusers.ControlNetModel.from_unet(base.unet)
        controlnet.save_pretrained(folder)
        del controlnet
        yield Model(base.pipeline, base.name, tiny_vae=tiny), folder


def measure(size: str, device: str | None, side: int, frames: int, steps: int) -> dict[str, float]:
    """Time all rows and parts; return seconds, milliseconds, megabytes and launches by name."""
    found: dict[str, float] = {}
    scenes = motion_scenes(Scene("robot", "red", "city"), "dance", frames)
    images = np.stack([render(scene, side).image for scene in scenes])

    def note(name: str, work: Callable[[], object]) -> None:
        found[f"{name}, seconds"], peak = timed(work, model.device)
        if peak is not None:
            found[f"{name}, MB at the peak"] = peak / 1e6

    with made(size, device) as (model, where):
        whole = Model(model.pipeline, model.name, model.folders)

        def edit(tiny_vae: bool = True, **how: Any) -> zs2kit.Edit:
            usual = {
                "guidance_scale": GUIDANCE,
                "num_inference_steps": steps,
                "chunk_size": BATCH,
                "cuts": (),
            }
            return zs2kit.edit(
                Clip.from_images(images, 12),
                PROMPT,
                plugins=[Maps(model=where)],
                model=model if tiny_vae else whole,
                **{**usual, **how},
            )

        for name, how in ROWS.items():
            edited = edit(**how)
            note(name, lambda edited=edited: list(edited))  # type: ignore[misc]
            found[f"{name}, MB of the carry"] = edited.carry.nbytes / 1e6
        controlnet = model.load_network(diffusers.ControlNetModel, model.bundled(where) or where)
        maps = torch.from_numpy(images).permute(0, 3, 1, 2).to(model.device, model.dtype) / 255
        note(PIPELINE, lambda: by_pipeline(model, controlnet, maps, steps))
        found |= parts(model, controlnet, maps, images[[0, -1]])
        counted = "kernels launched" if model.device.type == "cuda" else "operators called"
        found[f"{counted} a step"] = launches(edit, model.device)
    return found


def timed(work: Callable[[], object], device: torch.device, repeats: int = 2) -> tuple[float, int | None]:
    """Seconds, the median after a first time that doesn't count, and the device's peak memory in bytes."""
    cuda = device.type == "cuda"
    seconds = []
    for _ in range(1 + repeats):
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        start = perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append(perf_counter() - start)
    return median(seconds[1:]), torch.cuda.max_memory_allocated(device) if cuda else None


def by_pipeline(model: Model, controlnet: Any, maps: torch.Tensor, steps: int) -> None:
    """Draw all frames by diffusers' ControlNet pipeline, with as many at once as zs2kit takes."""
    used = dict(model.pipeline.components)
    kind: Any = diffusers.StableDiffusionXLControlNetPipeline
    if not hasattr(model.pipeline, "text_encoder_2"):
        kind = diffusers.StableDiffusionControlNetPipeline
        used |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    used["scheduler"] = make_scheduler("ddim", model.pipeline.scheduler.config, steps, model.device)
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
def parts(model: Model, controlnet: Any, maps: torch.Tensor, two: NDArray[np.uint8]) -> dict[str, float]:
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
        "U-Net and ControlNet, batch of 8": lambda: call(BATCH),
        "U-Net and ControlNet, batch of 1": lambda: call(1),
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
        return {f"{name}, ms": 1000 * timed(work, model.device)[0] for name, work in works.items()}


def launches(edit: Callable[..., zs2kit.Edit], device: torch.device) -> float:
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
    return (counts[1] - counts[0]) / 2


def table(about: Mapping[str, Any], found: Mapping[str, float]) -> str:
    """Markdown: rows, parts and targets of one model on one device."""
    lines = [
        "| what | seconds | frames a second | MB at the peak | MB of the carry |",
        "|---|---|---|---|---|",
    ]
    for row in (*ROWS, PIPELINE):
        seconds = found[f"{row}, seconds"]
        memory = [found.get(f"{row}, MB {where}") for where in ("at the peak", "of the carry")]
        shown = " | ".join("" if each is None else f"{each:,.0f}" for each in memory)
        lines.append(f"| {row} | {seconds:.2f} | {about['frames'] / seconds:.2f} | {shown} |")
    lines += ["", "| part | |", "|---|---|"]
    parts = [name for name in found if name.endswith((", ms", "a step"))]
    lines += [f"| {name} | {found[name]:,.1f} |" for name in parts]
    lines += ["", "| target | to reach | reached |", "|---|---|---|"]
    for target in (*TARGETS, *RATES[about["rows"]]):
        value = target.value({**found, "frames": about["frames"]})
        lines.append(f"| {target.says} | {target.bound} {target.wanted:g} | {value:.2f} |")
    return "\n".join(lines)


def run(cells: Cells, size: str, device: str | None, side: int | None, frames: int, steps: int) -> None:
    """Measure one size of model on one device, unless that is done already, and print what was found.

    It is written to ``cells``, from which docs/results.md is made.
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
    found = cells.numbers(about, RULES, lambda: measure(size, device, side, frames, steps))
    click.echo(f"{size}, {side}x{side}, {frames} frames, {steps} steps, on {about['on']}\n")
    click.echo(table(about, found))


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

Seconds for a clip whose maps are given, the median of two after one that doesn't count. LCM runs without
guidance. The larger models have random weights, and a tiny VAE of taesd's size. The pipeline is diffusers'
StableDiffusionControlNetPipeline, or XL's, which draws frame by frame with as many frames at once, decoding
included.
"""
