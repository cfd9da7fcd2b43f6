"""Recorded calls of networks: a tape on the CPU stands in for CUDA graphs, and replays into fixed tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from test_laws import Picture
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_unflatten

import zs2kit
from zs2kit import Model, Plugin, hookimpl, launches
from zs2kit.carry import Carry
from zs2kit.clip import Fit
from zs2kit.editing import Edit, Place
from zs2kit.errors import ModelError, Notice, PluginError, UsageError, receiving
from zs2kit.launches import Launches
from zs2kit.networks import loading
from zs2kit.networks.base import DenoiserInputs, per_frame
from zs2kit.networks.loading import text_encoders
from zs2kit.scan import Drawn, Scan
from zs2kit.testing import chunks, drawn_clip, make_scan, tiny_models
from zs2kit_plugins.reference import Reference

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh", "aten::is_nonzero", "aten::equal"}


class Tape(TorchDispatchMode):
    """Records operators as a CUDA graph records kernels: with the very tensors that they read and write.

    As in a graph's recording, nothing may be read back, and no tensor made of numbers in Python.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        if name in READS:
            raise RuntimeError(f"{name} can't be recorded")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Do all again, into the same tensors."""
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            if function.is_view:
                continue
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@dataclass
class Tapes:
    """A `zs2kit.launches.Recorder`."""

    made: list[Tape] = field(default_factory=list)

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        work()
        with Tape() as tape:
            results = work()
        self.made.append(tape)
        for each in tree_leaves(results):  # in a graph's recording, nothing is computed
            each.fill_(torch.nan)
        return results, tape.replay


@pytest.fixture(scope="module")
def tiny(tiny_folders: dict[str, Path]) -> Model:
    return Model.load(tiny_folders["epsilon"])


def frames(scan: Scan, sizes: Sequence[int] = (2, 2, 2, 1)) -> torch.Tensor:
    carry, made = Carry(), []
    for chunk in chunks(drawn_clip(sum(sizes)), sizes, scan.model):
        carry, pixels, _ = scan(carry, chunk)
        made.append(pixels)
    return torch.cat(made)


def recorded(
    model: Model, plugins: Any = (), **settings: Any
) -> tuple[torch.Tensor, list[Tape], list[Notice]]:
    """The frames of an edit whose calls are recorded, the tapes, and the notices."""
    tapes, told = Tapes(), list[Notice]()
    scan = make_scan(model, plugins, **settings)
    scan.denoiser.launches = Launches(lambda: tapes)
    with receiving(told.append):
        made = frames(scan)
    return made, tapes.made, told


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.0}, {"momentum": 1.0}, {"scheduler": "lcm"}])
def test_replays_are_the_calls(tiny: Model, settings: dict[str, Any]) -> None:
    made, tapes, told = recorded(tiny, [Picture()], **settings)
    assert torch.equal(made, frames(make_scan(tiny, [Picture()], **settings)))
    assert not told
    # The first chunk, which has nothing to go on from, those after it, and the last one, which is shorter
    kinds = 2 if settings.get("momentum") == 0.0 else 3
    assert len(tapes) == 2 * kinds  # of the U-Net and the ControlNet
    assert sum(tape.replays for tape in tapes) == 2 * (4 * 8 - kinds)


def test_inputs_that_do_not_reach_the_recording_are_noticed(tiny: Model, monkeypatch) -> None:
    """The control."""

    def call(self: Any, leaves: Any) -> Any:
        self.replay()
        return tree_unflatten([each.clone() for each in self.results], self.tree)

    expected = frames(make_scan(tiny, [Picture()]))
    monkeypatch.setattr(launches._Recording, "__call__", call)
    made, _, _ = recorded(tiny, [Picture()])
    assert not torch.allclose(made, expected, atol=1e-3)


@dataclass(eq=False)
class Brightening(Plugin):
    """Registers a hook of its own in the U-Net, which does more with every step."""

    follows_source = None

    @hookimpl
    def setup(self, model, denoiser):
        self.step = 0

        @contextmanager
        def hooked():
            change = lambda module, inputs, out: out * (1 + 0.1 * self.step)  # noqa: E731
            handle = model.unet.mid_block.register_forward_hook(change)
            yield
            handle.remove()

        denoiser.within(hooked)

    @hookimpl
    def denoiser_inputs(self, step):
        self.step = step.index


class Shrinking(AttnProcessor2_0):
    """An attention processor of a third party, which does less with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return super().__call__(*args, **kwargs) / self.calls


@dataclass(eq=False)
class Processing(Plugin):
    """Has the U-Net use an attention processor of its own."""

    follows_source = None

    @hookimpl
    def setup(self, model, denoiser):
        @contextmanager
        def processed():
            before = model.unet.attn_processors
            model.unet.set_attn_processor(before | {next(iter(before)): Shrinking()})
            yield
            model.unet.set_attn_processor(before)

        denoiser.within(processed)


@dataclass(eq=False)
class Scaling(Picture):
    """Steers by another scale in each step."""

    @hookimpl
    def denoiser_inputs(self, step, branch, latents):
        given = super().denoiser_inputs(step=step, branch=branch, latents=latents)
        given.inputs["conditioning_scale"] = 1.0 - step.index / 10
        return given


@dataclass(eq=False)
class Residuals(Picture):
    """Calls its ControlNet itself, as plugins may."""

    @hookimpl
    def denoiser_inputs(self, step, branch, latents):
        given = super().denoiser_inputs(step=step, branch=branch, latents=latents)
        prompt = per_frame(branch.prompt_embeds, len(latents))
        return DenoiserInputs(
            *given.network(latents, step.timestep, prompt, return_dict=False, **given.inputs)
        )


@pytest.mark.parametrize(
    ("plugins", "networks"),
    [
        ([Picture(start=0.25, end=0.75)], 2),  # the U-Net is recorded with residuals and without
        ([Picture(), Brightening()], 1),
        ([Processing()], 0),
        ([Scaling()], 2),
        ([Residuals()], 2),
    ],
)
def test_plugins_that_change_from_step_to_step(tiny: Model, plugins: list[Plugin], networks: int) -> None:
    expected = frames(make_scan(tiny, plugins))
    made, tapes, told = recorded(tiny, plugins)
    assert torch.equal(made, expected) and not told
    assert not torch.allclose(made, frames(make_scan(tiny)), atol=1e-3)
    assert (len(tapes) > 0) == (networks > 0)


def test_the_picture_of_a_reference_reaches_the_replays(tmp_path: Path) -> None:
    """Its processors are set to something else for the first frame, and the picture is an input."""
    model = Model.load()
    plugins = [Reference(scale=0.8)]
    settings = {"num_inference_steps": 3}
    expected = frames(make_scan(model, plugins, **settings), (2, 1))
    tapes = Tapes()
    scan = make_scan(model, plugins, **settings)
    scan.denoiser.launches = Launches(lambda: tapes)
    assert torch.equal(frames(scan, (2, 1)), expected)
    assert tapes.made


@dataclass(eq=False)
class Reading(Plugin):
    """Puts a layer into the U-Net that reads a number back, which no recording can."""

    follows_source = None

    @hookimpl
    def setup(self, model, denoiser):
        class Layer(torch.nn.Module):
            def __init__(self, inner: torch.nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *args, **kwargs):
                found = self.inner(*args, **kwargs)
                return found / found.abs().max().item()

        @contextmanager
        def replaced():
            inner = model.unet.conv_out
            model.unet.conv_out = Layer(inner)
            yield
            model.unet.conv_out = inner

        denoiser.within(replaced)


def test_what_can_not_be_recorded_is_called_as_it_is(tiny: Model) -> None:
    plugins = [Picture(), Reading()]
    made, tapes, told = recorded(tiny, plugins)
    assert torch.equal(made, frames(make_scan(tiny, plugins)))
    assert [each.kind for each in told] == ["not-recorded"]
    assert (
        "the network unet can't be recorded" in told[0].message and "_local_scalar_dense" in told[0].message
    )
    assert len(tapes) > 0  # the ControlNet's


def test_weights_that_move_are_recorded_anew(tiny_folders: dict[str, Path]) -> None:
    """In float32, and then in float16 again, whose weights lie somewhere else by then."""
    model = Model.load(tiny_folders["epsilon"], dtype="float16")

    with receiving(lambda notice: None):
        expected = frames(make_scan(model, [Picture(), Overflowing()]))
    made, tapes, told = recorded(model, [Picture(), Overflowing()])
    assert torch.equal(made, expected) and [each.kind for each in told] == ["overflow"]
    # Of both networks: the first chunk, the second in float16 and in float32, the third and the last one
    assert len(tapes) == 10


@dataclass(eq=False)
class Overflowing(Plugin):
    """Has the second chunk overflow in half precision."""

    follows_source = None

    @hookimpl
    def prepare(self, chunk, model):
        self.breaks = chunk.index == 2 and model.dtype == torch.float16

    @hookimpl
    def decoded(self, pixels):
        return torch.full_like(pixels, torch.inf) if self.breaks else None


def test_memory_of_recordings_is_given_up_first(tiny: Model) -> None:
    scan = make_scan(tiny)
    scan.denoiser.launches = Launches(Tapes)
    edit = Edit(drawn_clip(2), scan, Fit.into((32, 32), (32, 32), 8), {}, None, None)
    failing = [True]

    def work(chunk):
        if failing.pop():
            failing.append(False)
            raise MemoryError
        return Drawn(Carry(), torch.zeros(1), None)

    chunk, _ = edit.attempt(list(edit.clip), Place(0, Carry()), work)
    assert chunk.length == 2 and scan.denoiser.together and not scan.denoiser.launches.records


@dataclass
class Short(Tapes):
    """A recorder for whose recordings there is no memory; as with a graph, another error tells of it."""

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            raise RuntimeError("a recording has failed")


def test_where_there_is_no_memory_to_record_nothing_is_recorded(tiny: Model) -> None:
    def drawn(recorder: Any) -> tuple[list[bytes], Scan]:
        scan = make_scan(tiny)
        scan.denoiser.launches = Launches(recorder)
        edit = Edit(drawn_clip(3), scan, Fit.into((32, 32), (32, 32), 8), {}, None, None)
        return [frame.image.tobytes() for frame in edit], scan

    told: list[Notice] = []
    with receiving(told.append):
        made, scan = drawn(Short)
    assert made == drawn(None)[0] and not scan.denoiser.launches.records and scan.denoiser.together
    assert not told


@pytest.mark.parametrize("kind", ["z-image", "flux-dev", "flux2-klein", "sd3"])
def test_transformers_are_recorded_or_called_as_they_are(kind: str) -> None:
    model = Model.load(tiny_models()[kind])
    settings = {"num_inference_steps": 3, "guidance_scale": None}
    made, tapes, told = recorded(model, **settings)
    assert torch.equal(made, frames(make_scan(model, **settings)))
    assert (len(tapes) > 0) is not bool(told)


@dataclass(eq=False)
class Unattached(Plugin):
    """Gives a network of its own."""

    follows_source = None

    @hookimpl
    def denoiser_inputs(self):
        return DenoiserInputs(network=torch.nn.Identity())


def test_a_network_that_is_not_attached_is_refused(tiny: Model) -> None:
    with pytest.raises(PluginError, match="a plugin gives a network, Identity, that is not attached"):
        frames(make_scan(tiny, [Unattached()]))


@pytest.mark.slow
def test_compiled_calls_are_the_calls(tiny: Model) -> None:
    """Each is compiled once per shape, not once per chunk, step or layer, and without breaks."""
    from torch._dynamo.utils import counters

    counters.clear()
    scan = make_scan(tiny, [Picture()], num_inference_steps=3)
    scan.denoiser.launches = Launches(None, partial(torch.compile, backend="eager"))
    made = frames(scan)
    assert torch.allclose(made, frames(make_scan(tiny, [Picture()], num_inference_steps=3)), atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 6  # of two networks: the first chunk, those after, the last
    assert not counters["graph_break"]


# What a machine can't do, and what doesn't fit


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"graphs": True}, "device 'cpu' has no CUDA graphs; leave `graphs` out"),
        ({"offload": True}, "everything is in host memory already, with device 'cpu'; leave `offload` out"),
    ],
)
def test_what_the_device_has_no_use_for_is_refused(
    tiny_folders, given: dict[str, bool], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Model.load(tiny_folders["epsilon"], device="cpu", **given)


@pytest.mark.slow
def test_to_compile_without_a_compiler_is_refused(tiny_folders: dict[str, Path]) -> None:
    from torch._inductor import config

    torch.compiler.reset()
    without = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    refused = pytest.raises(UsageError, match=r"nothing can be compiled here: .*; leave `compile` out")
    with config.patch(without), refused:
        Model.load(tiny_folders["epsilon"], device="cpu", compile=True)


def test_text_encoders_that_are_offloaded_come_for_the_prompt_and_leave(tiny_folders, monkeypatch) -> None:
    model = Model.load(tiny_folders["sdxl"])
    expected, _ = model.embed("a cat", "", 32, 32)
    moved: list[tuple[str, str]] = []
    to = torch.nn.Module.to

    def noted(self: torch.nn.Module, where: Any) -> torch.nn.Module:
        moved.append((type(self).__name__, str(where)))
        return to(self, where)

    monkeypatch.setattr(torch.nn.Module, "to", noted)  # which does what it did, and tells
    for each in text_encoders(model.pipeline):
        monkeypatch.setattr(type(each), "to", noted)
    model.offload = True
    found, _ = model.embed("a cat", "", 32, 32)
    assert torch.equal(found.prompt_embeds, expected.prompt_embeds)
    both = [("CLIPTextModel", "cpu"), ("CLIPTextModelWithProjection", "cpu")]
    assert moved == 2 * both  # to the device, which here is the host as well, and back
    moved.clear()
    how = {"model": model, "plugins": (), "num_inference_steps": 1, "size": (32, 32)}
    for _ in zs2kit.edit(drawn_clip(2), "a cat", **how):
        pass
    assert moved == 2 * both  # once for an edit, its measuring included


def test_large_text_encoders_are_offloaded_by_default(tiny_folders) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    kinds = ("flux-dev", "z-image", "epsilon", "qwen-image-edit")
    networks = {kind: Model.load(tiny_folders[kind]).network for kind in kinds}
    found = [kind for kind, network in networks.items() if loading.offloads(network, cuda)]
    assert found == ["flux-dev", "z-image"]
    assert not loading.offloads(networks["flux-dev"], cpu)


@pytest.mark.parametrize(
    ("kind", "share", "remedy"),
    [
        ("flux-dev", 0.7, "use half precision: `dtype='bfloat16'`"),
        ("sdxl", 0.7, "use half precision: `dtype='float16'`"),
        ("sdxl", 0.3, "use a smaller model"),
    ],
)
def test_weights_that_dont_fit_into_host_memory(tiny_folders, monkeypatch, kind, share, remedy) -> None:
    parts = [*Model.load(tiny_folders[kind], tiny_vae="none").modules]
    needed = sum(each.nbytes for part in parts for each in part.parameters())
    monkeypatch.setattr(loading.psutil, "swap_memory", lambda: SimpleNamespace(free=0))
    monkeypatch.setattr(loading, "free", lambda where: int(1.01 * needed))
    Model.load(tiny_folders[kind], tiny_vae="none")
    monkeypatch.setattr(loading, "free", lambda where: int(share * needed))
    with pytest.raises(ModelError, match=r"of weights, but only 0.0 GB of memory are free") as error:
        Model.load(tiny_folders[kind])
    assert error.value.remedy == remedy


@pytest.mark.parametrize(
    ("dtype", "share", "offload", "remedy"),
    [
        (torch.float32, 1.1, False, None),
        (torch.float32, 0.7, False, "use half precision: `dtype='float16'`"),
        (torch.float16, 0.97, False, "use text encoders in host memory: `offload=True`"),
        (torch.float16, 0.97, True, None),
        (torch.float16, 0.1, False, "use a smaller model, or `device='cpu'`"),
    ],
)
def test_a_card_that_is_too_small(tiny_folders, monkeypatch, dtype, share, offload, remedy) -> None:
    pipeline = Model.load(tiny_folders["sdxl"], dtype=str(dtype).removeprefix("torch.")).pipeline
    modules = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    needed = sum(each.nbytes for module in modules for each in module.state_dict().values())
    monkeypatch.setattr(loading, "free", lambda where: int(share * needed))
    cuda = torch.device("cuda")
    if remedy is None:
        loading.check_room("tiny", pipeline, cuda, offload=offload)
        return
    with pytest.raises(ModelError, match=r"tiny has 0.0 GB of weights, but cuda has only") as error:
        loading.check_room("tiny", pipeline, cuda, offload=offload)
    assert error.value.remedy.startswith(remedy)
