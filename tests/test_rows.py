"""Rows, the scan's other order: each step for a whole shot before the next gives the same frames."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map_only

import zs2kit
from zs2kit import editing, io, journal
from zs2kit.carry import Carry, Row, is_row
from zs2kit.clip import Chunk, Clip
from zs2kit.errors import ClipError, ModelError, Notice
from zs2kit.filters import Steady, through
from zs2kit.hookspecs import hookimpl
from zs2kit.model import Model
from zs2kit.plan import lines, plan
from zs2kit.plugins import Plugin
from zs2kit.scan import Drawn, Scan
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.colour import Colour
from zs2kit_plugins.edges import Edges
from zs2kit_plugins.flowedit import FlowEdit
from zs2kit_plugins.invert import Invert
from zs2kit_plugins.reference import Reference
from zs2kit_plugins.strength import Strength

SIZES = (2, 1, 3)


@pytest.fixture(scope="module")
def tiny(tiny_folders: dict[str, Path]) -> Model:
    return Model.load(tiny_folders["epsilon"])


@dataclass(eq=False)
class Half(Plugin):
    """Keeps the left half, and remembers in which chunk it is."""

    @hookimpl
    def prepare(self, chunk: Chunk, carry: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self._count = carry.get("half/count", torch.zeros(())) + chunk.length
        return {"half/count": self._count}

    @hookimpl
    def keep(self, chunk: Chunk) -> np.ndarray:
        mask = np.zeros((chunk.length, 32, 32), np.float32)
        mask[:, :, :16] = 1
        return mask

    @hookimpl
    def estimate(self, estimate: torch.Tensor) -> torch.Tensor:
        return estimate * 0.01 * self._count


def in_rows(scan: Any, parts: Sequence[Chunk]) -> torch.Tensor:
    return torch.cat([it.pixels for it in scan.rows(Carry(), parts) if isinstance(it, Drawn)])


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (list, {}),
    "euler": (list, {"scheduler": "euler"}),
    "dpm++": (list, {"scheduler": "dpm++"}),
    "unipc": (list, {"scheduler": "unipc"}),
    "lcm": (list, {"scheduler": "lcm", "noise": "orbit"}),
    "in host memory": (list, {"scheduler": "euler"}),
    "one step": (list, {"num_inference_steps": 1}),
    "edges, late": (lambda: [Edges(start=0.25, end=0.75)], {"flow_momentum": 0.9}),
    "a memory and a mask": (lambda: [Half(), Edges()], {"scheduler": "dpm++", "flow_momentum": 0.9}),
    "colour, strength": (lambda: [Colour(patch=50, end=0.75), Strength(0.6)], {"scheduler": "unipc"}),
    "no step": (lambda: [FlowEdit()], {}),
    "invert": (lambda: [Invert()], {}),
    "prompts": (list, {"prompt": {0: "a red robot", 4: "a blue knight"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_give_the_frames_of_columns_to_the_bit(tiny: Model, case: str) -> None:
    plugins, settings = CASES[case]
    parts = chunks(drawn_clip(sum(SIZES)), SIZES, tiny)
    settings = {"num_inference_steps": 4, **settings}
    expected = edited_pixels(make_scan(tiny, plugins(), **settings), parts)
    scan = make_scan(tiny, plugins(), **settings)
    scan.carry_on_host = case == "in host memory"
    made = in_rows(scan, parts)
    assert torch.equal(made, expected)
    # The control: chunks that don't know of one another
    alone = edited_pixels(make_scan(tiny, plugins(), **settings), parts, carried=False)
    assert not torch.allclose(alone, expected, atol=1e-3)


# ---- edits


HOW: dict[str, Any] = {
    "num_inference_steps": 3,
    "chunk_size": 2,
    "flow_momentum": 0.0,
    "notices": lambda it: None,
    "size": (32, 32),
    "cuts": (0.25,),
}
LENGTHS = (3, 4)


def edited(
    model: Model, *plugins: Plugin, rows: bool | None = True, clip: Clip | None = None, **how: Any
) -> zs2kit.Edit:
    made = zs2kit.edit(
        clip or drawn_clip(sum(LENGTHS)), "a red robot", plugins=plugins, model=model, **(HOW | how)
    )
    made.scan.in_rows = rows
    return made


def images(clip: Any) -> list[bytes]:
    return [frame.image.tobytes() for frame in clip]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("epsilon", {"every": 3, "plugins": [Edges()]}),
        ("flux-dev", {"scheduler": "unipc", "momentum": 0.9}),
        ("flux2-klein", {"plugins": [Reference()], "num_inference_steps": 2}),
        ("qwen-image", {"num_inference_steps": 2}),
    ],
)
def test_edits_of_several_shots(tiny_folders: dict[str, Path], kind: str, how: dict[str, Any]) -> None:
    model = Model.load(tiny_folders[kind])
    plugins = how.pop("plugins", [])
    expected = images(edited(model, *plugins, rows=False, **how))
    made = edited(model, *plugins, **how)
    assert images(made) == expected
    assert made.index == sum(LENGTHS) and made.steps == 0 and not is_row(made.carry)


def places(made: zs2kit.Edit, folder: Path) -> list[tuple[int, int, Path]]:
    """Draw an edit; return where it could be resumed: frames that are drawn, steps of the next, the carry."""
    found: list[tuple[int, int, Path]] = []

    def keep() -> None:
        found.append((made.index, made.steps, folder / f"{len(found)}.safetensors"))
        made.carry.save(found[-1][2])

    for done, _ in enumerate(made.frames_from(0, None, keep), 1):
        if done == made.index:
            keep()
    return found


@pytest.mark.parametrize(
    ("plugins", "how"),
    [
        ([Half(), Colour(end=1.0), Strength(0.7)], {"scheduler": "dpm++", "num_inference_steps": 4}),
        ([Edges()], {"scheduler": "unipc", "flow_momentum": 0.9, "every": 2, "num_inference_steps": 3}),
    ],
)
def test_an_edit_can_be_resumed_between_any_two_steps(tiny, tmp_path, plugins, how) -> None:
    made = edited(tiny, *plugins, rows=False, **how)
    expected = images(made)
    found = places(edited(tiny, *plugins, **how), tmp_path)
    assert {index for index, _, _ in found} >= {0, LENGTHS[0], sum(LENGTHS)}
    assert len({steps for _, steps, _ in found}) >= 3
    for index, steps, path in found:
        carry = Carry.load(path)
        assert (Row.of(carry) is not None) == bool(steps)
        # With chunks of another size, and whatever order the machine would choose
        rest = edited(tiny, *plugins, rows=None, **how)
        assert images(rest.frames_from(index, carry)) == expected[index:]
    # The control: another step's latents give other frames
    index, steps, path = next(each for each in found if each[1])
    carry = Carry.load(path)
    carry["row/latents"] = carry["row/latents"].flip(0)
    assert images(edited(tiny, *plugins, **how).frames_from(index, carry)) != expected[index:]


def test_a_shot_that_was_begun_in_columns_is_finished_in_rows(tiny: Model) -> None:
    made = edited(tiny, rows=False)
    expected = images(made)
    frames = iter(made)
    for _ in range(5):
        next(frames)
    assert made.index == 5
    rest = edited(tiny)
    assert images(rest.frames_from(5, made.carry)) == expected[5:]


class _Stop(Exception):
    pass


@pytest.mark.parametrize("filtered", [False, True])
def test_what_is_written_is_resumed_between_two_steps(tiny, tmp_path, monkeypatch, filtered) -> None:
    monkeypatch.setattr(journal, "SHARE", math.inf)
    source = io.write(tmp_path / "clip.mp4", drawn_clip(5), quality=5)
    out = tmp_path / "out.mp4"

    def write(rows: bool, stop: tuple[int, int] | None = None, resume: bool | None = None) -> zs2kit.Edit:
        def progress(done: zs2kit.Progress) -> None:
            seen.append((int(done), done.step))
            if seen[-1] == stop:
                raise _Stop

        made = edited(tiny, rows=rows, clip=io.read(source), progress=progress, cuts=())
        io.write(out, through(made, [Steady()] if filtered else []), resume=resume)
        return made

    seen: list[tuple[int, int | None]] = []
    write(False)
    expected = images(io.read(out))
    out.unlink()
    with pytest.raises(_Stop) as caught:
        write(True, (0, 2))
    (note,) = caught.value.__notes__
    assert (
        note
        == "0 of 5 frames and 1 step of the next ones are saved; to resume, run the same with `resume=True`"
    )
    assert journal.saved(out) == (0, 1)
    with pytest.raises(
        ClipError, match="was interrupted, and 0 frames and 1 step of the next ones are saved"
    ):
        write(True)
    with pytest.raises(_Stop):
        write(True, (0, 3), resume=True)
    assert journal.saved(out) == (0, 2)
    monkeypatch.setattr(Scan, "seconds", lambda self, chunk: 900.0)
    made = edited(tiny, clip=io.read(source), cuts=())
    made = through(made, [Steady()] if filtered else [])
    resumed, anew = (plan(made, out, resume=each) for each in (True, False))
    assert (resumed.saved, resumed.saved_steps, anew.saved_steps) == (0, 2, 0)
    assert resumed.seconds == pytest.approx(anew.seconds / 3, rel=0.2)
    assert any("0 frames and 2 steps of the next ones are saved" in line for line in lines(resumed))
    seen.clear()
    write(True, resume=True)
    assert {step for _, step in seen} == {3}
    assert images(io.read(out)) == expected
    assert sorted(each.name for each in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


# ---- which order


def test_rows_are_chosen_where_a_carry_of_all_steps_fits_nowhere(tiny, monkeypatch, tmp_path) -> None:
    expected = images(edited(tiny, rows=False))
    carry = edited(tiny).scan.rehearse(chunks(drawn_clip(sum(LENGTHS)), [1], tiny)[0])
    whole = carry.carry * carry.steps
    monkeypatch.setattr(editing.Edit, "_held", lambda self, frames, place: list(frames))
    for size, room, rows in ((2, 4.2 * whole, False), (2, 1.9 * whole, True), (None, 1.9 * whole, True)):
        monkeypatch.setattr(editing, "free", lambda device, room=room: room)
        made = edited(tiny, rows=None, chunk_size=size)
        done = images(made)
        assert made.scan.in_rows is rows
        assert size is None or done == expected
    for room, rows in ((4.2 * whole, False), (1.9 * whole, True)):
        monkeypatch.setattr(editing, "free", lambda device, room=room: room)
        planned = plan(edited(tiny, rows=None), tmp_path / "out.mp4")
        assert planned.in_rows is rows and planned.whole_carry_bytes == whole
        assert planned.carry_bytes == (carry.carry if rows else whole)
        assert any(line.startswith("order ") for line in lines(planned)) is rows


def test_a_plugin_that_needs_all_of_the_carry_has_columns_and_says_so(tiny, monkeypatch) -> None:
    monkeypatch.setattr(editing, "free", lambda device: 0)
    said: list[Notice] = []
    made = edited(tiny, Invert(), rows=None, scheduler="ddim", notices=said.append)
    next(iter(made))
    assert made.scan.in_rows is False
    (notice,) = (each for each in said if each.kind == "large-carry")
    assert "with invert, all of it is needed" in notice.message


@pytest.mark.parametrize("masked", [False, True])
def test_a_shot_that_is_too_long_to_be_held_is_an_error(tiny, monkeypatch, masked) -> None:
    """Where the source stays, its frames' masks are held, too, and pictures of more than 8 bits twice."""
    deep = [frame._replace(stored=np.zeros((32, 32, 3), np.uint16)) for frame in drawn_clip(sum(LENGTHS))]
    clip = drawn_clip(sum(LENGTHS)).with_frames(deep)
    held = 3 + 6 + editing.HELD + 4 * masked  # bytes a pixel
    monkeypatch.setattr(editing, "free", lambda device: 2 * 3 * held * 32 * 32)
    made, done = edited(tiny, *[Half()] * masked, clip=clip), []
    with pytest.raises(ModelError, match=r"the shot with frame 3 is too long .* there is room for only 3;"):
        done.extend(made)
    assert len(done) == LENGTHS[0]


def test_the_carry_of_a_model_of_the_size_of_flux(tiny_folders, monkeypatch, tmp_path) -> None:
    """FLUX.1-dev's transformer without weights (on the meta device), 28 steps, 64x64 tokens: 1024x1024."""
    import diffusers

    class FluxTransformer2DModel(diffusers.FluxTransformer2DModel):  # type: ignore[misc]
        """Computes nothing but the shapes, and predicts 0."""

        device = torch.device("cpu")

        def forward(self, hidden_states: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor]:
            given = tree_map_only(torch.Tensor, lambda it: it.to("meta"), (hidden_states, inputs))
            super().forward(given[0], **given[1])
            return (torch.zeros_like(hidden_states),)

    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny_folders["flux-dev"])
    small = pipeline.transformer.config
    sizes = {name: small[name] for name in ("in_channels", "joint_attention_dim", "pooled_projection_dim")}
    with torch.device("meta"):
        pipeline.register_modules(transformer=FluxTransformer2DModel(**sizes, guidance_embeds=True))
    model = Model(pipeline)
    size = (128 * model.vae_scale, 128 * model.vae_scale)
    monkeypatch.setattr(editing, "free", lambda device: 80 * 10**9)
    made = zs2kit.edit(
        drawn_clip(1, width=size[1], height=size[0]),
        plugins=(),
        model=model,
        num_inference_steps=28,
        size=size,
        chunk_size=1,
    )
    planned = plan(made, tmp_path / "out.mp4")
    assert planned.in_rows and 79e9 < planned.whole_carry_bytes < 81e9
    assert 2 * planned.carry_bytes < 6e9  # for this chunk, and for the next one


# ---- what goes wrong


def test_memory_that_runs_out_in_rows(tiny: Model) -> None:
    expected = images(edited(tiny, rows=False, chunk_size=1))
    made = edited(tiny, Cramped(1, 3), chunk_size=4)
    assert (
        np.abs(
            np.stack([frame.image for frame in made]).astype(int)
            - np.stack([np.frombuffer(each, np.uint8).reshape(32, 32, 3) for each in expected])
        ).max()
        <= 1
    )
    assert made.chunk_size == 1
    with pytest.raises(ModelError, match=r"out of memory on cpu at frame 0, .* shorter shots: `cuts`"):
        next(iter(edited(tiny, Cramped(0))))
    assert not tiny.lock.locked()


def test_what_a_transformer_has_prepared_is_held_for_one_chunk_at_a_time(tiny_folders) -> None:
    """Its inputs of all chunks of a shot would fill the device."""
    model = Model.load(tiny_folders["flux-dev"])
    scan = make_scan(model, num_inference_steps=2)
    parts = chunks(drawn_clip(6), (2, 2, 2), model)
    prepared: list[int] = []
    for _ in scan.rows(Carry(), parts, lambda step, frames: prepared.append(len(model.network._prepared))):
        gc.collect()
    assert prepared == [0] * 6  # what the chunk itself had is gone by then, too


@dataclass(eq=False)
class Cramped(Plugin):
    """There is memory for so many frames at once, from a frame on."""

    frames: int = zs2kit.option(1, "For how many.")
    since: int = zs2kit.option(0, "The frame.")

    @hookimpl
    def prepare(self, chunk: Chunk) -> None:
        self._index = chunk.index

    @hookimpl
    def denoiser_inputs(self, latents: torch.Tensor, step: Any) -> None:
        if len(latents) > self.frames and self._index >= self.since and step.index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def apart(made: list[bytes], expected: list[bytes]) -> int:
    return max(
        int(np.abs(np.frombuffer(a, np.uint8).astype(int) - np.frombuffer(b, np.uint8)).max())
        for a, b in zip(made, expected, strict=True)
    )


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_what_overflows_in_half_precision_is_drawn_again_in_float32(tiny_folders, part) -> None:
    model = Model.load(tiny_folders["epsilon"], dtype="float16")
    if part == "unet":
        model.vae.float()  # or its half precision would be seen in the end
        model.unet.conv_in.weight.data *= 3e5
    else:
        model.vae.decoder.conv_in.weight.data *= 3e5
    said: list[Notice] = []
    made = images(edited(model, notices=said.append))
    assert [each.kind for each in said] == ["overflow"]
    model.pipeline.to(torch.float32)
    exact = images(edited(model, rows=False))
    assert apart(made, exact) <= (8 if part == "vae" else 0)
    model.unet.conv_in.weight.data *= math.inf
    with pytest.raises(ModelError, match="overflows at frame 0, even in float32"):
        next(iter(edited(model)))


@dataclass(eq=False)
class Overflowing(Plugin):
    """Overflows in half precision in one of the steps."""

    @hookimpl
    def setup(self, model: Model) -> None:
        self._model = model

    @hookimpl
    def estimate(self, step: Any, estimate: torch.Tensor) -> torch.Tensor | None:
        overflows = step.index == 1 and self._model.halves()
        return torch.full_like(estimate, torch.inf) if overflows else None


def test_only_the_step_that_overflows_is_taken_in_float32(tiny_folders, tmp_path) -> None:
    model = Model.load(tiny_folders["epsilon"], dtype="float16")
    how: dict[str, Any] = {"num_inference_steps": 4, "cuts": (), "clip": drawn_clip(3)}
    seen: list[tuple[int, bool]] = []
    call = Scan._row

    def row(self: Scan, carry: Carry, shot: Any, row: Row, *given: Any, **how: Any) -> Row:
        seen.append((row.step, bool(how)))
        return call(self, carry, shot, row, *given, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scan, "_row", row)
        made = images(edited(model, Overflowing(), **how))
    assert seen == [(0, False), (1, False), (1, True), (2, False), (3, False)]
    for index, steps, path in places(edited(model, Overflowing(), **how), tmp_path):
        rest = edited(model, Overflowing(), **how)
        assert images(rest.frames_from(index, Carry.load(path))) == made[index:], steps


def test_what_overflows_before_the_first_step_is_encoded_in_float32(tiny_folders) -> None:
    model = Model.load(tiny_folders["epsilon"], dtype="float16")
    model.vae.encoder.conv_in.weight.data *= 3e5
    how: dict[str, Any] = {"num_inference_steps": 2, "cuts": ()}
    made = images(edited(model, Strength(0.5), **how))
    model.pipeline.to(torch.float32)
    assert np.isin(np.frombuffer(made[-1], np.uint8), (0, 255)).mean() < 0.5
    exact = images(edited(model, Strength(0.5), **how))
    assert apart(made, exact) <= 8


def test_plugins_are_as_they_were_and_an_edit_can_stop(tiny: Model) -> None:
    steps: list[int] = []

    def progress(done: zs2kit.Progress) -> None:
        steps.append(done.step or 0)
        if len(steps) == 3:
            made.stop()

    plugin = Half()
    made = edited(tiny, plugin, progress=progress)
    with pytest.raises(zs2kit.Stopped):
        next(iter(made))
    assert steps == [1, 1, 2] and vars(plugin) == vars(Half())
    assert not tiny.lock.locked() and not is_row(Carry())
    assert made.steps == 1  # it could be resumed after the first one
