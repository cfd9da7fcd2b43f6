"""On a CUDA device: the laws, the CPU's frames, memory that runs out. `pytest -m gpu` runs these alone."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import Model
from zs2kit.carry import Carry, HostCarry
from zs2kit.control import Control
from zs2kit.errors import Notice, receiving
from zs2kit.launches import CudaGraphs
from zs2kit.scan import Drawn
from zs2kit.schedule import Step
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.pose import Pose

DEVICE = "cuda"
SAMPLE = Path(__file__).parents[1] / "samples/robot-dance.mp4"
DTYPES = ["float32", "float16", "bfloat16"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@dataclass(eq=False)
class Picture(Control):
    """Steers with the source's own pixels as the map."""

    scale: float = zs2kit.option(1.0, "How strongly the maps steer.")

    def controlnet(self, model: Model) -> Path:
        return model.bundled("controlnet_pose")

    def detect(self, images, chunk):
        return images


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Without TF32, whose float32 isn't the CPU's."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(params=DTYPES)
def model(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Model:
    return Model.load(tiny_folders["epsilon"], device=DEVICE, dtype=request.param)


def pixels(model: Model, plugins=(), sizes=(5,), *, carried: bool = True, **settings) -> torch.Tensor:
    settings = {"flow_momentum": 0.9, **settings}
    parts = chunks(drawn_clip(sum(sizes)), sizes, model)
    return edited_pixels(make_scan(model, plugins, **settings), parts, carried=carried).cpu()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(max((a - b).square().mean().item(), 1e-12))


def edited(model: Model, frames: int, chunk_size: int, size: int = 256) -> zs2kit.Edit:
    source = next(iter(zs2kit.read(SAMPLE))).image
    clip = zs2kit.Clip.from_images([np.roll(source, 2 * k, axis=1) for k in range(frames)], 12)
    settings = {"num_inference_steps": 4, "chunk_size": chunk_size, "size": (size, size), "cuts": ()}
    settings["notices"] = lambda notice: None  # that the clip shows several figures, at the seam
    return zs2kit.edit(clip, "a blue knight", plugins=[Pose(detector="puppets")], model=model, **settings)


def release() -> None:
    """Free what edits of before have held; they refer to themselves."""
    gc.collect()
    torch.cuda.empty_cache()


def peak(work) -> int:
    release()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.0}, {"momentum": 1.0}, {"scheduler": "lcm"}])
def test_recorded_calls_are_the_calls(model: Model, settings: dict[str, Any]) -> None:
    def drawn(graphs: bool) -> torch.Tensor:
        model.graphs = graphs
        scan = make_scan(model, [Picture(start=0.25)], flow_momentum=0.9, **settings)
        made = edited_pixels(scan, chunks(drawn_clip(7), (2, 2, 2, 1), model)).cpu()
        recorded = scan.denoiser.launches._recorded
        assert recorded.keys() == ({"unet", "picture"} if graphs else set()), told
        assert all(any(known.values()) for known in recorded.values())
        return made

    told: list[Notice] = []
    with receiving(told.append):
        graphs, eager = drawn(True), drawn(False)
    assert not told  # such as that something can't be recorded
    model.graphs = True
    assert psnr(graphs, eager) >= {torch.float32: 80, torch.float16: 50, torch.bfloat16: 40}[model.dtype]


def test_frames_are_those_of_the_cpu(model: Model, tiny_folders: dict[str, Path]) -> None:
    on_cpu = Model.load(tiny_folders["epsilon"], device="cpu", dtype="float32")
    least = {torch.float32: 60, torch.float16: 40, torch.bfloat16: 25}[model.dtype]
    assert psnr(pixels(model, [Picture()]), pixels(on_cpu, [Picture()])) >= least


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++", "lcm"])
def test_steps_do_not_wait_for_the_device(tiny_folders: dict[str, Path], scheduler: str) -> None:
    model = Model.load(tiny_folders["epsilon"], device=DEVICE, dtype="float16")
    scan = make_scan(model, [Picture()], flow_momentum=0.9, scheduler=scheduler)
    carry: Carry = Carry()
    *before, last = chunks(drawn_clip(8), (2, 2, 2, 2), model)
    for chunk in before:  # in which calls are recorded
        carry = scan(carry, chunk).carry

    def watch(step: Step) -> None:
        between = step.index < step.count - 1
        torch.cuda.set_sync_debug_mode("error" if between else "default")

    try:
        drawn = scan(carry, last, watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert isinstance(drawn, Drawn)


def test_memory_that_runs_out_for_real() -> None:
    """There is as much as two frames at once take; eight are asked for, so something must be given up."""
    model = Model.load(device=DEVICE)
    expected = np.stack([frame.image for frame in edited(model, 8, 2)])
    most = peak(lambda: list(edited(model, 8, 2)))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.2 * most / total)
    try:
        release()
        clip = edited(model, 8, 8)
        made = np.stack([frame.image for frame in clip])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    denoiser = clip.scan.denoiser
    given_up = [not denoiser.launches.records, not denoiser.together, clip.scan.carry_on_host]
    assert any(given_up) or clip.chunk_size < 8
    assert np.abs(made.astype(int) - expected).max() <= 4


def test_an_overflow_in_float16_is_made_again_in_float32(tiny_folders: dict[str, Path]) -> None:
    model = Model.load(tiny_folders["epsilon"], device=DEVICE, dtype="float16")
    told: list[Notice] = []
    clip = zs2kit.edit(
        drawn_clip(2),
        "a cat",
        plugins=[Picture()],
        model=model,
        num_inference_steps=4,
        guidance_scale=1e6,
        notices=told.append,
    )
    assert len(list(clip)) == 2
    assert "overflow" in [notice.kind for notice in told]


def test_a_carry_on_the_host_gives_the_same(model: Model) -> None:
    def drawn(on_host: bool) -> torch.Tensor:
        scan = make_scan(model, [Picture()], flow_momentum=0.9)
        scan.carry_on_host = on_host
        carry, made = HostCarry(model.device) if on_host else Carry(), []
        for chunk in chunks(drawn_clip(5), (2, 2, 1), model):
            carry, part, _ = scan(carry, chunk)
            made.append(part)
        return torch.cat(made)

    assert torch.equal(drawn(True), drawn(False))


def test_chunks_do_not_show(model: Model) -> None:
    whole, cut = pixels(model, [Picture()]), pixels(model, [Picture()], (2, 2, 1))
    if model.dtype == torch.float32:
        assert (cut - whole).abs().max() <= 1e-4
    assert psnr(cut, whole) >= 40
    assert psnr(pixels(model, [Picture()], (2, 2, 1), carried=False), whole) < 35


def test_the_same_twice(model: Model) -> None:
    assert torch.equal(pixels(model, [Picture()]), pixels(model, [Picture()]))


def test_an_edit_goes_on_where_it_was_stopped(model: Model, tmp_path: Path) -> None:
    def clip() -> zs2kit.Edit:
        return zs2kit.edit(
            drawn_clip(6), "a cat", plugins=[Picture()], model=model, num_inference_steps=2, chunk_size=2
        )

    def images(path: Path) -> np.ndarray:
        return np.stack([frame.image for frame in zs2kit.read(path)])

    def end(done: int) -> None:
        if done == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        zs2kit.write(tmp_path / "stopped.mkv", clip(), codec="ffv1", progress=end)
    zs2kit.write(tmp_path / "stopped.mkv", clip(), codec="ffv1", resume=True)
    zs2kit.write(tmp_path / "whole.mkv", clip(), codec="ffv1")
    assert np.array_equal(images(tmp_path / "stopped.mkv"), images(tmp_path / "whole.mkv"))


def test_a_longer_clip_takes_no_more_memory() -> None:
    model = Model.load(device=DEVICE)
    short, long = (peak(lambda count=count: list(edited(model, count, 8, 64))) for count in (16, 160))
    assert long < 1.02 * short


def test_memory_of_recordings_is_given_back(model: Model) -> None:
    scan = make_scan(model, [Picture()])
    list(edited_pixels(scan, chunks(drawn_clip(4), (2, 2), model)))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    scan.denoiser.launches.stop()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < before


def test_neutral_is_neutral_and_there_is_no_trace(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    assert torch.equal(pixels(model, [Picture(scale=0.0)]), pixels(model))
    assert not any(each._forward_pre_hooks for each in model.unet.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.unet.state_dict().items())


def test_a_failed_recording_leaves_no_trace(tiny_folders: dict[str, Path]) -> None:
    model = Model.load(tiny_folders["epsilon"], device=DEVICE, dtype="float16")
    stream, ones = torch.cuda.current_stream(), torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError):
        CudaGraphs(model.device)(lambda: (ones * 2).sum().item())
    assert torch.cuda.current_stream() == stream
    expected = pixels(model, [Picture()])
    results, replay = CudaGraphs(model.device)(lambda: ones * 2)
    ones.fill_(2)
    replay()
    assert results.tolist() == [4, 4, 4]
    assert torch.equal(pixels(model, [Picture()]), expected)
