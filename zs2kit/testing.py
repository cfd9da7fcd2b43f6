"""For tests: tiny models of the real classes, drawn clips, and checks of plugins and filters."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit.carry import Carry, Row
from zs2kit.clip import Anew, Chunk, Clip, Fit, Frame
from zs2kit.editing import Edit, edit, settled
from zs2kit.errors import PluginError
from zs2kit.filters.base import Filter
from zs2kit.filters.filtered import shots_of
from zs2kit.hookspecs import hookimpl
from zs2kit.model import Model
from zs2kit.plugins import Plugin, manager, name_of
from zs2kit.quiet import quiet
from zs2kit.scan import Drawn, Scan, chunk_of
from zs2kit.settings import Settings
from zs2kit.tiny_transformers import TRANSFORMERS, tiny_transformer

SAME = 1e-4  # frames in [0, 1], in float32, are the same if they differ by no more than this
SHOWS = 10 * SAME  # something has an effect if frames differ by more than this
FRAMES = 4  # of the clip that `check_plugin` edits


_UNETS: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "v_prediction": {"prediction_type": "v_prediction"},
    "instruct": {"unet": {"in_channels": 8, "out_channels": 4}},
    "sdxl": {"sdxl": True},
    "upscaler": {"prediction_type": "v_prediction", "upscaler": True},
}


class _TinyModels(Mapping[str, Path]):
    """The folders of tiny checkpoints by their kinds; each is created when it is first asked for."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="zs2kit-tiny-")
        atexit.register(self._folder.cleanup)

    def __getitem__(self, kind: str) -> Path:
        path = Path(self._folder.name) / kind
        if path.exists():
            return path
        if kind not in _UNETS:
            tiny_transformer(kind, path)
        else:
            tiny_model(path, **_UNETS[kind])
        if kind == "upscaler":
            return path
        _detector(18).save_pretrained(path / "detector")  # finds a figure's keypoints
        # Estimates depth and mask, for blocks of four pixels
        _detector(4 * 2, 4 * 3).save_pretrained(path / "estimator")
        return path

    def __iter__(self) -> Iterator[str]:
        return iter([*_UNETS, *TRANSFORMERS])

    def __len__(self) -> int:
        return len(_UNETS) + len(TRANSFORMERS)


@functools.cache
def tiny_models() -> Mapping[str, Path]:
    """Return the folders of tiny checkpoints with random weights, by their kinds.

    Each is created when it is first asked for, in a folder that is removed when the process ends. These have
    a U-Net: ``epsilon`` and ``v_prediction``, which are like Stable Diffusion 1.5; ``instruct``, which is the
    same with eight input channels; and ``sdxl``. They have the same side networks as the bundled model, so
    that plugins find theirs. Those with a transformer are named after their families, such as ``flux-dev``;
    they have detectors and, if there are any for the family, ControlNets of several kinds. ``upscaler`` is
    like Stable Diffusion's x4 upscaler, for the filter diffuse.
    """
    return _TinyModels()


def tiny_model(
    folder: Path,
    prediction_type: str = "epsilon",
    *,
    unet: dict[str, Any] | None = None,
    sdxl: bool = False,
    upscaler: bool = False,
    seed: int = 0,
) -> Path:
    """Save a Stable Diffusion checkpoint with random weights to ``folder``, and return the folder.

    It has the real diffusers and transformers classes, for pictures of 32x32 pixels and 8x8 latents. It also
    has ControlNets (``controlnet_pose``, ``controlnet_depth``, ``controlnet_edges``), which have an effect,
    unlike untrained ones. ``unet`` overrides entries of the U-Net's config; ``sdxl`` gives it two text
    encoders and the additional conditions of SDXL; ``upscaler`` makes it an x4 upscaler without ControlNets.
    """
    import diffusers

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    } | (unet or {})
    width = config["cross_attention_dim"]
    if sdxl:
        config |= {
            "cross_attention_dim": 2 * width,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + width,  # six numbers, and the pooled text
        }
    if upscaler:  # sees the small picture, and how noisy it was made
        config |= {
            "in_channels": 4 + 3,
            "out_channels": 4,
            "num_class_embeds": 1000,
            # Its latents are as large as the small picture, so like the real one it has self-attention only
            # where they are smallest.
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "only_cross_attention": (True, True, False),
        }
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL(
            scaling_factor=0.08333 if upscaler else 0.18215,
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            sample_size=32,
        ),
        "text_encoder": _text_encoder(width),
        "tokenizer": _tokenizer(folder),
        "unet": _unet(config),
        "scheduler": diffusers.DDIMScheduler(
            prediction_type=prediction_type,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
            rescale_betas_zero_snr=prediction_type == "v_prediction",
            timestep_spacing="trailing",
        ),
    }
    with quiet():
        if sdxl:
            second = {"text_encoder_2": _text_encoder(width, pooled=True), "tokenizer_2": parts["tokenizer"]}
            pipeline = diffusers.StableDiffusionXLPipeline(**parts, **second)
        elif upscaler:
            noising = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
            pipeline = diffusers.StableDiffusionUpscalePipeline(**parts, low_res_scheduler=noising)
        else:
            none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            pipeline = diffusers.StableDiffusionPipeline(**parts, **none)
        pipeline.save_pretrained(folder)
        for kind in () if upscaler else ("pose", "depth", "edges"):
            _controlnet(config).save_pretrained(folder / f"controlnet_{kind}")
    return folder


def _text_encoder(width: int, *, pooled: bool = False) -> Any:
    """Return a CLIP text encoder; ``pooled`` gives the kind that SDXL has as its second one."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=300,
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if pooled else transformers.CLIPTextModel
    return kind(config).eval()


def _unet(config: dict[str, Any]) -> Any:
    import diffusers

    network = diffusers.UNet2DConditionModel(**config)
    for name, layer in network.named_modules():
        if name.endswith("attn1.to_out.0"):
            layer.weight.data *= 4  # untrained attention has hardly any effect, but tests need one
    return network


def _controlnet(config: dict[str, Any]) -> Any:
    """Return a ControlNet for the U-Net with this config."""
    import diffusers

    # A ControlNet takes only the latents, even if the U-Net takes further channels.
    network = diffusers.ControlNetModel.from_unet(
        _unet(config | {"in_channels": 4}), conditioning_embedding_out_channels=(8, 8, 8)
    )
    for layer in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.3)  # untrained, these are zero and have no effect
    torch.nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return network


def _detector(channels: int, given: int = 3) -> Any:
    """Return a network that turns pictures of ``given`` channels into maps of ``channels`` channels."""
    import diffusers

    return diffusers.UNet2DModel(
        in_channels=given,
        out_channels=channels,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )


def _tokenizer(folder: Path) -> Any:
    """Return a CLIP tokenizer that only knows single characters."""
    import transformers

    characters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(each + "</w>" for each in characters)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=32)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    return tokenizer


def drawn_clip(frames: int = 6, *, width: int = 32, height: int = 32, rate: Fraction = Fraction(12)) -> Clip:
    """Return a clip of a disc that moves over a gradient."""
    import cv2

    def draw() -> Iterator[Frame]:
        shade = np.linspace(40, 200, width, dtype=np.uint8)
        for index in range(frames):
            image = np.repeat(np.repeat(shade[None, :, None], height, 0), 3, 2)
            x = round(width * (index + 1) / (frames + 1))
            cv2.circle(image, (x, height // 2), min(width, height) // 5, (220, 60, 40), -1)
            yield Frame(image, index)

    return Clip(Anew(draw), width, height, rate, 1 / rate, frames)


def make_scan(
    model: Model, plugins: Sequence[Plugin] = (), clip: Clip | None = None, **settings: Any
) -> Scan:
    """Return the scan of an edit. settings: those of `zs2kit.edit`; the defaults are quick ones."""
    quick: dict[str, Any] = {
        "prompt": "a red robot",
        "num_inference_steps": 8,
        "momentum": 0.9,
        "divergence": 0.4,
        "flow_momentum": 0.0,
    }
    how = settled(Settings(**{**quick, **settings}), model)
    return Scan(model, manager(plugins), clip or drawn_clip(), how)


def chunks(
    clip: Clip, sizes: Sequence[int], model: Model, size: tuple[int, int] | None = None
) -> list[Chunk]:
    """Return the clip's chunks of the given ``sizes``, as `zs2kit.edit` gives them to plugins.

    size: the (height, width) to work at; None is the model's own.
    """
    frames = list(clip)[: sum(sizes)]
    fit = Fit.into((clip.height, clip.width), size or model.native_size, model.multiple)
    starts = np.cumsum([0, *sizes]).tolist()
    return [chunk_of(clip, frames[start:end], start, fit) for start, end in pairwise(starts)]


def edited_pixels(scan: Scan, chunks: Sequence[Chunk], *, carried: bool = True) -> torch.Tensor:
    """Return the edited frames (frames, 3, height, width) in [0, 1], before they are rounded to 8 bits.

    ``carried=False`` gives every chunk an empty carry, which breaks the law that chunks don't show.
    """
    carry, frames = Carry(), []
    for chunk in chunks:
        drawn = scan(carry if carried else Carry(), chunk)
        assert isinstance(drawn, Drawn), f"numbers overflow in frame {chunk.index + drawn.frame}"
        carry = drawn.carry
        frames.append(drawn.pixels)
    return torch.cat(frames)


def check_plugin(
    *plugins: Plugin,
    model: str | Path | Model | None = None,
    neutral: Mapping[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Edit a drawn clip with ``plugins``, used together, and assert the laws that every plugin must obey.

    Each plugin has an effect. The same edit twice gives equal frames. The frames don't depend on how the clip
    is cut into chunks, on whether each step is taken for all chunks before the next step, on whether the edit
    was resumed, or on the order in which plugins are given. Afterwards the model and the caller's plugins are
    as before, even if an edit fails or isn't finished. Two edits in two threads give what each gives alone.
    Each law is also checked against an edit that must break it, so that it can't hold just because nothing
    has an effect. The clip is ``drawn_clip(4)``: 4 frames of 32x32 pixels.

    model: as for `edit`; None is one of `tiny_models`, with random weights.
    neutral: options with which a single plugin changes nothing, such as ``{"scale": 0}``.
    settings: those of `edit`; the defaults are quick ones (8 steps).

    Raises AssertionError, which says which law is broken, by how much, and what the usual cause is.
    """
    model = model or tiny_models()["epsilon"]
    trial = _Trial(model if isinstance(model, Model) else Model.load(model), plugins, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a plugin may find nothing in a picture of a disc
        _check_no_trace(trial)  # first, since what an edit leaves behind would spoil all comparisons
        whole = trial.pixels()
        _check_acts(trial, whole)
        _check_same_twice(trial, whole)
        _check_chunks(trial, whole)
        if len(plugins) > 1:
            _check_order(trial, whole)
        if neutral is not None:
            _check_neutral(trial, neutral)
        _check_threads(trial)


def check_filter(
    filter: Filter, *, neutral: Mapping[str, Any] | None = None, clip: Clip | None = None
) -> None:
    """Take a drawn clip through ``filter`` and assert the laws that every filter must obey.

    The filter has an effect. The result has the size, the rate, the number of frames and the times that the
    filter declares. Filtering the same clip twice gives equal frames. They don't depend on how many frames
    the filter gets at once, on what came before a cut, or on whether it was interrupted and resumed.
    Afterwards the caller's filter is as before. Two filtered clips in two threads give what each gives alone.

    neutral: options with which the filter changes nothing, such as ``{"factor": 1}``.
    clip: another clip to use; it must have two shots or more, and you must be able to iterate over it many
    times.

    Raises AssertionError, which says which law is broken, and what the usual cause is.
    """
    clip = clip or two_shots()
    given = dict(vars(filter))
    whole = list(filter(clip))
    assert vars(filter) == given, (
        "the filter is not what it was: usually it shares a list with its copies; let prepare() make what "
        "the filter needs, and keep that on self"
    )
    _check_declared(filter, clip, whole)
    _check_filters(clip, whole)
    _check_again(filter(clip), whole, "the same twice", "random numbers without a seed of their own")
    for size in (1, 2, 3, len(whole)):
        made = filter(clip)
        made.filter.chunk_size = size  # type: ignore[misc]  # of the copy
        cause = "something is computed over all frames of the passage; compute it frame by frame"
        _check_again(made, whole, f"with up to {size} frames at once", cause)
    _check_last_shot(filter, clip, whole)
    _check_resumed(filter, clip, whole)
    if neutral is not None:
        neutral_one = dataclasses.replace(filter, **neutral)  # type: ignore[type-var]
        options = ", ".join(f"{name}={value!r}" for name, value in neutral.items())
        cause = "the option is not looked at everywhere"
        _check_again(neutral_one(clip), list(clip), f"with {options}, which should change nothing,", cause)
    with ThreadPoolExecutor(2) as threads:
        for frames in threads.map(lambda _: list(filter(clip)), range(2)):
            _check_again(frames, whole, "in two threads at once", "something is kept on the class")


def two_shots(lengths: Sequence[int] = (3, 3), *, side: int = 32) -> Clip:
    """Return a drawn clip with shots of these lengths, each unlike the one before, and with uneven times."""
    rate = Fraction(30000, 1001)

    def draw() -> Iterator[Frame]:
        pts = 0
        for shot, length in enumerate(lengths):
            for place, frame in enumerate(drawn_clip(length, width=side, height=side)):
                image = frame.image[..., ::-1] // 3 if shot % 2 else frame.image
                lasts = 1001 * (1 + pts // 1001 % 3)  # one to three ticks of the nominal rate
                yield Frame(np.ascontiguousarray(image), pts, lasts, cut=place == 0)
                pts += lasts

    return Clip(Anew(draw), side, side, rate, Fraction(1, 30000), sum(lengths))


def _check_declared(filter: Filter, clip: Clip, whole: Sequence[Frame]) -> None:
    declared, source = filter.declared(clip), list(clip)
    assert len(whole) == declared.frame_count, f"{len(whole)} frames, not {declared.frame_count} as declared"
    sizes = {frame.image.shape[:2] for frame in whole}
    assert sizes == {(declared.height, declared.width)}, f"pictures of {sizes}, not of the declared size"
    ends = [frame.pts + frame.duration for frame in (source[-1], whole[-1])]
    for before, after in zip(source, whole[:: filter.per_frame], strict=True):
        assert before.pts * clip.time_base == after.pts * declared.time_base, "a frame has another time"
    assert all(a.pts < b.pts for a, b in pairwise(whole)), "frames are not in the order of their times"
    assert ends[0] * clip.time_base == ends[1] * declared.time_base, "the clip has another duration"


def _check_filters(clip: Clip, whole: Sequence[Frame]) -> None:
    same = len(whole) == clip.frame_count and all(
        np.array_equal(a.image, b.image) for a, b in zip(clip, whole, strict=True)
    )
    assert not same, (
        "the filter changes nothing, so the other laws would hold just because it has no effect: usually an "
        "option is set to a value that does nothing"
    )


def _check_again(made: Iterable[Frame], whole: Sequence[Frame], how: str, cause: str) -> None:
    frames = list(made)
    assert [each.pts for each in frames] == [each.pts for each in whole], f"{how}, frames have other times"
    pairs = zip(frames, whole, strict=True)
    worst = max((_apart(a, b) for a, b in pairs), default=0)
    most = 0 if "twice" in how else 1  # of 255: a difference of 1 may be rounding
    assert worst <= most, f"{how}, frames differ by up to {worst} of 255: usually {cause}"


def _check_last_shot(filter: Filter, clip: Clip, whole: Sequence[Frame]) -> None:
    marked = list(shots_of(clip))
    starts = [place for place, frame in enumerate(marked) if frame.cut]
    assert len(starts) > 1, "the clip has a single shot"
    alone = clip.with_frames(marked[starts[-1] :], frame_count=len(marked) - starts[-1])
    pairs = zip(whole[starts[-1] * filter.per_frame :], filter(alone), strict=True)
    worst = max(_apart(a, b) for a, b in pairs)
    assert worst <= 1, (
        f"a shot differs by up to {worst} of 255 from the same shot alone: usually something of the frames "
        "before the cut is kept on self; keep it in the carry"
    )


def _check_resumed(filter: Filter, clip: Clip, whole: Sequence[Frame]) -> None:
    made = filter(clip)
    with TemporaryDirectory(prefix="zs2kit-") as folder:
        path = Path(folder) / "carry.safetensors"
        for done, _ in enumerate(made, 1):
            if made.index == done:
                made.carry.save(path)
                rest = filter(clip).frames_from(done, Carry.load(path))
                cause = "something is kept on self from one call to the next; keep it in the carry"
                _check_again(rest, whole[done:], f"resumed after {done} frames", cause)


def _apart(a: Frame, b: Frame) -> int:
    return int(np.abs(a.image.astype(int) - b.image).max())


@dataclass(frozen=True)
class _Trial:
    """Edits of one clip with a model and plugins, for comparison."""

    model: Model
    plugins: Sequence[Plugin]
    settings: Mapping[str, Any]

    def pixels(
        self,
        sizes: Sequence[int] = (FRAMES,),
        plugins: Sequence[Plugin] | None = None,
        *,
        carried: bool = True,
        resumed: bool = False,
    ) -> torch.Tensor:
        """Return the frames, drawn in chunks of ``sizes``; ``resumed``: each chunk by a new edit."""
        plugins = self.plugins if plugins is None else plugins
        clip = drawn_clip(FRAMES)
        scan = make_scan(self.model, plugins, clip, **self.settings)
        carry, frames = Carry(), []
        for chunk in chunks(clip, sizes, self.model, self.settings.get("size")):
            if resumed:
                scan = make_scan(self.model, plugins, drawn_clip(FRAMES), **self.settings)
            drawn = scan(carry if carried else Carry(), chunk)
            assert isinstance(drawn, Drawn), "numbers overflow"
            carry = drawn.carry
            frames.append(_blended(chunk, drawn))
        return torch.cat(frames)

    def rows(self, sizes: Sequence[int]) -> torch.Tensor:
        """Return the frames, drawn in rows by an edit that another one resumes after half of the steps."""
        clip = drawn_clip(FRAMES)
        parts = chunks(clip, sizes, self.model, self.settings.get("size"))
        first, other = (make_scan(self.model, self.plugins, clip, **self.settings) for _ in range(2))
        steps: Any = first.settings.num_inference_steps
        carry = Carry()
        for made in first.rows(carry, parts):
            if isinstance(made, Drawn):
                break
            carry = made
            if (row := Row.of(carry)) and row.step >= steps / 2:
                break
        drawn = [each for each in other.rows(carry, parts) if isinstance(each, Drawn)]
        return torch.cat([_blended(*each) for each in zip(parts, drawn, strict=True)])

    def edit(self, clip: Clip, *further: Plugin, seed: int = 0) -> Edit:
        """Return ``clip`` edited in few steps, in chunks of 2, with ``further`` plugins."""
        quick: dict[str, Any] = {
            "prompt": "a red robot",
            "num_inference_steps": 2,
            "flow_momentum": 0.0,
            "chunk_size": 2,
            "seed": seed,
        }
        return edit(clip, plugins=[*self.plugins, *further], model=self.model, **{**quick, **self.settings})


def _check_acts(trial: _Trial, whole: torch.Tensor) -> None:
    for plugin in trial.plugins:
        try:
            without = trial.pixels(plugins=[each for each in trial.plugins if each is not plugin])
        except PluginError:  # the model can't be used without it, for example one with eight channels
            continue
        found = _difference(whole, without)
        assert found > SHOWS, (
            f"leaving out {name_of(plugin)} changes the picture by {found:.1e} at most, so the other laws "
            "would hold just because nothing has an effect: usually an option is set to a value that does "
            "nothing, or a hook computes something and doesn't return it"
        )


def _check_same_twice(trial: _Trial, whole: torch.Tensor) -> None:
    found = _difference(trial.pixels(), whole)
    assert found == 0, (
        f"the same edit twice differs by {found:.1e}: usually random numbers that aren't drawn from a "
        "generator of the plugin's own with a fixed seed, or something left over from the edit before"
    )


def _blended(chunk: Chunk, drawn: Drawn) -> torch.Tensor:
    """Return what `zs2kit.scan.finished` does, but not rounded to 8 bits, and at the model's size."""
    if drawn.keep is None:
        return drawn.pixels
    assert chunk.fit is not None
    mask = torch.from_numpy(np.stack([chunk.fit.apply(each) for each in drawn.keep]))[:, None]
    return torch.lerp(drawn.pixels, chunk.pixels / 2 + 0.5, mask)


def _check_chunks(trial: _Trial, whole: torch.Tensor) -> None:
    for sizes in ([1] * FRAMES, [3, 1]):
        found = _difference(trial.pixels(sizes), whole)
        assert found <= SAME, (
            f"frames depend on their chunk: in chunks of {' and '.join(map(str, sizes))} they differ by "
            f"{found:.1e} from those drawn in one chunk: usually something is computed over the whole chunk "
            "(a mean, a range, a kernel that rounds differently for another number of frames), or kept from "
            "chunk to chunk; compute it frame by frame"
        )
    found = _difference(trial.pixels([2, 2], resumed=True), whole)
    assert found <= SAME, (
        f"an edit that is resumed half-way gives other frames, which differ by {found:.1e}: usually "
        "something is kept on self from one chunk to the next, or frames are counted there; chunk.indices "
        "says which frames these are, and only the carry is saved with an edit"
    )
    found = _difference(trial.rows([2, 2]), whole)
    assert found <= SAME, (
        "an edit that takes each step for all chunks before the next step, and is resumed between two "
        f"steps, gives other frames, which differ by {found:.1e}: usually a hook relies on what it stored in "
        "an earlier step, or chunks share a list or a dict; let prepare() store what belongs to a chunk"
    )
    found = _difference(trial.pixels([2, 2], carried=False), whole)
    assert found > SHOWS, (
        f"chunks that know nothing about one another differ by only {found:.1e}, so the law that chunks "
        "don't show would hold just because nothing is drawn: usually options leave nothing to the sampler"
    )


def _check_order(trial: _Trial, whole: torch.Tensor) -> None:
    found = _difference(trial.pixels(plugins=trial.plugins[::-1]), whole)
    assert found <= SAME, (
        f"the order of {' and '.join(map(name_of, trial.plugins))} shows, by {found:.1e}: usually one "
        "changes what the other one reads, such as the chunk's pixels; return it from a hook instead"
    )


def _check_neutral(trial: _Trial, neutral: Mapping[str, Any]) -> None:
    (plugin,) = trial.plugins  # with several, it isn't clear whose options these are
    neutral_one = dataclasses.replace(plugin, **neutral)  # type: ignore[type-var]
    found = _difference(trial.pixels(plugins=[neutral_one]), trial.pixels(plugins=[]))
    options = ", ".join(f"{name}={value!r}" for name, value in neutral.items())
    assert found <= SAME, (
        f"{name_of(plugin)} with {options} differs from no plugin by {found:.1e}: usually one of its hooks "
        "doesn't look at the option"
    )


def _check_no_trace(trial: _Trial) -> None:
    # Some text encoders and VAEs set attributes when they are first used.
    trial.model.embed("", "", 32, 32)
    trial.model.encode(torch.zeros(1, 3, 32, 32))
    before = _state(trial.model)
    given = [dict(vars(each)) for each in trial.plugins]

    def check(when: str) -> None:
        changed = next(_changes(before, _state(trial.model)), None)
        assert changed is None, (
            f"the model is not what it was {when}, in {changed}: usually a hook changes the model itself; "
            "change it in a context given to denoiser.within(), and undo that in a finally"
        )
        assert not trial.model.lock.locked(), (
            f"the model is still locked {when}: take its lock in a with statement, in setup() alone"
        )
        for plugin, options in zip(trial.plugins, given, strict=True):
            assert vars(plugin) == options, (
                f"{name_of(plugin)} is not what it was {when}: usually copies share a list or a class "
                "attribute; hooks run on a copy for each edit, so keep what they need on self"
            )

    list(trial.edit(drawn_clip(FRAMES)))
    check("after an edit")
    frames = iter(trial.edit(drawn_clip(FRAMES)))
    next(frames)
    check("between two chunks")
    frames.close()  # type: ignore[attr-defined]  # it is a generator
    check("after an edit that is left half-way")
    for hook, failing in (("setup", _FailsInSetup()), ("denoiser_inputs", _FailsInStep())):
        try:
            list(trial.edit(drawn_clip(FRAMES), failing))
        except PluginError:
            check(f"after an edit that fails in {hook}()")
        else:
            raise AssertionError(f"an edit goes on even if a plugin fails in {hook}()")


@dataclass(eq=False)
class _FailsInSetup(Plugin):
    @hookimpl
    def setup(self) -> None:
        raise RuntimeError("on purpose")


@dataclass(eq=False)
class _FailsInStep(Plugin):
    @hookimpl
    def setup(self) -> None:
        self._calls = 0

    @hookimpl
    def denoiser_inputs(self) -> None:
        self._calls += 1
        if self._calls == 3:
            raise RuntimeError("on purpose")


def _check_threads(trial: _Trial) -> None:
    read, drawn = threading.Barrier(2), threading.Barrier(2)

    def images(seed: int, *, in_step: bool) -> list[NDArray[np.uint8]]:
        """Return the frames of one of two different edits.

        in_step: whether frames are read and taken in step with the other edit, so that each chunk comes
        between two chunks of the other edit.
        """

        def frames() -> Iterator[Frame]:
            for frame in drawn_clip(FRAMES):
                if in_step:
                    read.wait()
                yield frame._replace(image=frame.image[:, ::-1].copy()) if seed else frame

        clip = dataclasses.replace(drawn_clip(FRAMES), frames=Anew(frames))
        taken = []
        try:
            for frame in trial.edit(clip, seed=seed):
                taken.append(frame.image)
                if in_step:
                    drawn.wait()
        except BaseException:
            read.abort()  # or the other edit would wait forever
            drawn.abort()
            raise
        return taken

    alone = [images(seed, in_step=False) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        edits = [threads.submit(images, seed, in_step=True) for seed in (0, 1)]
    failed = [each.exception() for each in edits]
    error = next(
        (each for each in failed if each and not isinstance(each, threading.BrokenBarrierError)), None
    )
    why = (
        "usually something is kept on the class or in the module that belongs on self, or setup() changes "
        "the model without holding model.lock"
    )
    assert error is None, f"of two edits at once, in two threads, one fails: {error}: {why}"
    worst = np.abs(np.subtract([each.result() for each in edits], alone, dtype=np.int16)).max()
    assert worst <= 1, (  # of 255: a difference of 1 may be rounding
        f"two edits at once, in two threads, don't give what each gives alone (up to {worst} of 255): {why}"
    )


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def _state(model: Model) -> dict[str, Any]:
    """Return a copy of everything that an edit might change in a model: attributes, weights, scheduler."""
    parts = model.pipeline.components
    found: dict[str, Any] = {
        "model": {name: value for name, value in vars(model).items() if not name.startswith("_")},
        "pipeline": dict(parts),
        "scheduler": vars(model.pipeline.scheduler),
    }
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            for place, module in part.named_modules(prefix=name):
                own = dict(vars(module))
                for kind in ("_parameters", "_buffers", "_modules"):  # attributes that torch keeps in dicts
                    own |= own.pop(kind)
                found[place] = own
    copied: dict[str, Any] = _copied(found)
    return copied


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):  # diffusers' configs are dicts with attributes, which loaders set
        return {name: _copied(each) for name, each in (value | getattr(value, "__dict__", {})).items()}
    return value


def _changes(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield the places, such as ``unet.conv_out.weight``, in which two copies of a state differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in (*before, *(now.keys() - before.keys())):
            place = f"{where}.{name}".strip(".")
            if name in before and name in now:
                yield from _changes(before[name], now[name], place)
            else:
                yield place
    elif isinstance(before, torch.Tensor) and isinstance(now, torch.Tensor):
        if before.dtype != now.dtype or not torch.equal(before, now):
            yield where
    elif before is not now and not (isinstance(before, str | int | float | list | tuple) and before == now):
        yield where
