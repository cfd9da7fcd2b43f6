"""What goes wrong on the way: memory runs out, numbers break; and the clip is whole all the same."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import Plugin, editing, hookimpl, scan
from zs2kit.carry import Carry, HostCarry
from zs2kit.clip import Clip
from zs2kit.companion import Companion
from zs2kit.control import Control
from zs2kit.errors import ModelError
from zs2kit.memory import free, peak_of
from zs2kit.model import Model
from zs2kit.testing import chunks, drawn_clip, make_scan

FRAMES = 7


@pytest.fixture(scope="module")
def model(tiny_folders) -> Model:
    return Model.load(tiny_folders["epsilon"])


def edited(model: Model, *plugins, **settings) -> Clip:
    settings = {"num_inference_steps": 2, "cuts": (), **settings}
    return zs2kit.edit(drawn_clip(FRAMES), "a red robot", model=model, plugins=plugins, **settings)


def images(clip: Clip) -> np.ndarray:
    return np.stack([frame.image for frame in clip]).astype(int)


@dataclass(eq=False)
class Picture(Control):
    """Steers with the source's own pixels as the map."""

    def controlnet(self, model):
        return model.bundled("controlnet_pose")

    def detect(self, images, chunk):
        return images


# Out of memory


@dataclass(eq=False)
class Cramped(Plugin):
    """There is no memory for more than so many frames; not from the beginning, but from a frame on."""

    frames: int = zs2kit.option(2, "For how many frames there is memory.")
    since: int = zs2kit.option(0, "The frame.")

    @hookimpl
    def prepare(self, chunk):
        self._index = chunk.index

    @hookimpl
    def denoiser_inputs(self, latents, step):
        if len(latents) > self.frames and self._index >= self.since and step.index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(("frames", "since"), [(1, 0), (2, 3)])
def test_too_large_a_chunk_is_halved_and_no_frame_is_lost(model, frames, since):
    settings = {"chunk_size": 3, "divergence": 0.4, "flow_momentum": 0.95}
    whole = images(edited(model, **settings))
    clip = edited(model, Cramped(frames, since), **settings)
    assert np.abs(images(clip) - whole).max() <= 1
    assert clip.frames.chunk_size == frames and clip.frames.index == FRAMES

    forgetful, made = edited(model, Cramped(frames, since), **settings), []
    for frame in forgetful:
        made.append(frame.image)
        if len(made) == forgetful.frames.index:
            forgetful._place.carry = Carry()
    assert np.abs(made - whole).max() > 10


def test_memory_that_is_not_enough_for_one_frame_is_an_error(model):
    clip = edited(model, Cramped(0), chunk_size=4)
    with pytest.raises(ModelError, match=r"out of memory on cpu at frame 0, .* 32x32; use a smaller `size`"):
        next(iter(clip))
    assert not model.lock.locked()


def test_a_second_clip_is_asked_again_for_parts_of_a_chunk(model, tmp_path):
    """In a chunk that is tried again, masks and maps of the user's own are those of its frames."""
    masks = Clip.from_images([np.full((32, 32, 3), 16 * index, np.uint8) for index in range(8)], 12)
    path = zs2kit.write(tmp_path / "masks.mkv", masks, codec="ffv1")
    companion = Companion(path, drawn_clip(8))

    def shown(size: int, start: int) -> list[int]:
        chunk = chunks(drawn_clip(8), [start, size] if start else [size], model)[-1]
        return [int(image[0, 0, 0]) // 16 for image in companion.frames_of(chunk)]

    assert shown(4, 0) == [0, 1, 2, 3]
    assert shown(2, 0) == [0, 1]
    assert shown(2, 2) == [2, 3]
    assert shown(4, 4) == [4, 5, 6, 7]
    assert shown(1, 4) == [4]
    assert shown(3, 5) == [5, 6, 7]
    assert shown(2, 1) == [1, 2]


# As many frames as there is memory for


@dataclass(eq=False)
class Hungry(Plugin):
    """Takes 64 MB for each frame."""

    @hookimpl
    def denoiser_inputs(self, latents):
        np.ones((len(latents), 8 << 20))


@pytest.mark.parametrize(("megabytes", "expected"), [(100_000, 8), (350, 4), (100, 1)])
def test_the_chunk_size_is_what_fits_into_measured_memory(model, monkeypatch, megabytes, expected):
    monkeypatch.setattr(editing, "free", lambda device: megabytes << 20)
    clip = edited(model, Hungry())
    assert clip.frames.chunk_size is None
    iterator = iter(clip)
    next(iterator)
    assert clip.frames.chunk_size == expected


def test_the_chunk_size_that_is_given_is_taken(model, monkeypatch):
    monkeypatch.setattr(editing, "free", lambda device: 100 << 20)  # for one frame, see above
    clip = edited(model, Hungry(), chunk_size=5)
    images(clip)
    assert clip.frames.chunk_size == 5


def test_measuring_leaves_no_trace_in_the_frames(model):
    assert np.array_equal(images(edited(model, Picture())), images(edited(model, Picture(), chunk_size=8)))


def test_memory_is_measured():
    cpu = torch.device("cpu")
    taken = peak_of(lambda: np.ones(12 << 20), cpu)  # 96 MB
    assert taken is not None and 0.95 < taken / (96 << 20) < 1.2
    assert 1 << 20 < free(cpu) < 1 << 50
    scraps = [np.ones(8 << 10) for _ in range(4000)]  # 256 MB in all, which the process keeps for later
    last = scraps[-1]
    del scraps
    taken = peak_of(lambda: np.ones(12 << 20), cpu)
    assert taken is not None and 0.95 < taken / (96 << 20) < 1.2 and last.any()


# The carry in host memory


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_a_carry_in_host_memory_is_the_same_carry(tiny_folders, tmp_path, device):
    model = Model.load(tiny_folders["epsilon"], device=device, dtype="float32")
    parts = chunks(drawn_clip(FRAMES), [2, 2, 3], model)

    def frames(on_host: tuple[bool, ...]) -> tuple[Carry, torch.Tensor]:
        under_way = make_scan(model, [Picture()], num_inference_steps=3, scheduler="lcm", flow_momentum=0.9)
        carry, made = Carry(), []
        for chunk, under_way.carry_on_host in zip(parts, on_host, strict=True):
            if under_way.carry_on_host and not isinstance(carry, HostCarry):
                carry = HostCarry.of(carry, model.device)
            carry, pixels, _ = under_way(carry, chunk)
            made.append(pixels)
        return carry, torch.cat(made)

    expected, whole = frames((False, False, False))
    for on_host in [(True, True, True), (False, True, True), (False, True, False)]:
        carry, pixels = frames(on_host)
        assert torch.equal(pixels, whole)
        assert carry.keys() == expected.keys() and list(carry) == list(expected)
        carry.save(tmp_path / "carry.safetensors")
        saved = Carry.load(tmp_path / "carry.safetensors")
        assert all(torch.equal(saved[name], tensor.cpu()) for name, tensor in expected.items())
        if on_host[-1]:
            assert all(each.device.type == "cpu" for name, each in carry.items() if "attention" in name)


# Numbers that break


def overflowing(folder: Path, part: str) -> Model:
    """A model in half precision whose weights overflow there, in one ``part`` of it, and not in float32."""
    model = Model.load(folder, dtype="float16")
    if part == "unet":
        model.unet.conv_in.weight.data *= 3e5
    elif part == "vae":
        model.vae.half()
        model.vae.decoder.conv_in.weight.data *= 3e5
    return model


@dataclass(eq=False)
class Loud(Picture):
    """A ControlNet that overflows in half precision, before it averages."""

    @hookimpl
    def setup(self, model, denoiser, clip):
        Picture.setup(self, model, denoiser, clip)
        self._network.conv_in.weight.data *= 3e5


def dtypes(model: Model) -> list[torch.dtype]:
    parts = (model.unet, model.vae, model.pipeline.text_encoder)
    return [each.dtype for part in parts for each in part.state_dict().values()]


@pytest.mark.parametrize("part", ["unet", "vae", "controlnet"])
def test_what_overflows_in_half_precision_is_made_again_in_float32(tiny_folders, part):
    plugins = [Loud()] if part == "controlnet" else []
    model = overflowing(tiny_folders["epsilon"], part)
    before, weights = dtypes(model), {k: v.clone() for k, v in model.unet.state_dict().items()}
    with pytest.warns(
        UserWarning, match="overflows in torch.float16 at frame 0; such frames are drawn again in float32"
    ) as said:
        made = images(edited(model, *plugins, chunk_size=4))
    assert len(said) == 1
    assert dtypes(model) == before
    assert all(torch.equal(v, weights[k]) for k, v in model.unet.state_dict().items())

    model.pipeline.to(torch.float32)
    exact = images(edited(model, *plugins, chunk_size=4))
    # A ControlNet is loaded in the model's dtype, so that its weights are rounded in the first edit alone.
    assert np.abs(made - exact).max() <= (8 if part == "controlnet" else 0)
    assert made.std() > 5


def test_half_precision_that_holds_is_left_alone(tiny_folders):
    model = Model.load(tiny_folders["epsilon"], dtype="float16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images(edited(model))


@dataclass(eq=False)
class Bursts(Plugin):
    """From a frame on it gives latents whose square no float32 can hold."""

    frame: int = zs2kit.option(5, "The frame.")

    @hookimpl
    def initial_latents(self, chunk, noise):
        scale = torch.tensor([1e30 if index >= self.frame else 1.0 for index in chunk.indices])
        return noise * scale[:, None, None, None], 0


@pytest.mark.parametrize(("frame", "dtype"), [(0, "float32"), (5, "float32"), (5, "bfloat16")])
def test_what_overflows_in_float32_ends_the_edit_after_all_frames_before_it(tiny_folders, frame, dtype):
    model = Model.load(tiny_folders["epsilon"], dtype=dtype)
    whole = images(edited(model, Bursts(FRAMES), chunk_size=4))
    clip, made = edited(model, Bursts(frame), chunk_size=4), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are made again in float32
        with pytest.raises(ModelError, match=f"overflows at frame {frame}, even in float32; use a lower"):
            made.extend(each.image for each in clip)
    assert len(made) == frame == clip.frames.index
    if dtype == "float32":
        assert all(np.abs(a - b).max() <= 1 for a, b in zip(made, whole, strict=False))


def test_infinity_does_not_pass_for_black(model):
    latents = torch.zeros(2, *model.latent_shape(32, 32))
    latents[1] = float("inf")
    pixels = model.decode(latents)
    assert pixels[0].isfinite().all() and pixels[1].isnan().any()
    assert scan._first_broken(pixels) == 1 and scan._first_broken(pixels[:1]) is None


# Any length


@pytest.mark.slow
def test_a_longer_clip_takes_no_more_memory_and_no_longer_to_its_first_frame(tiny_folders, capsys):
    from zs2kit.bench.memory import measure

    measure(str(tiny_folders["epsilon"]), (40, 200), (1, 10), 1)
    said = dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert float(said["resident memory, 200 frames divided by 40"]) < 1.02
    assert float(said["first frame, 10 min minus 1 min"].removesuffix(" s")) < 0.5
