"""Temporal momentum attention: keys and values are a running average over frames (ZS2, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from zs2kit.carry import Carry
from zs2kit.errors import ModelError, PluginError

# A network's class -> which of its attention modules attend from the picture to itself, by their names, and
# whether text comes before the picture in what their keys are computed from. In all others, the picture
# comes first, and what follows it (text, padding, pictures that are shown) stays as it is.
SELF_ATTENTION: dict[str, dict[str, bool]] = {
    "UNet2DConditionModel": {r"\battn1$": False},
    "ControlNetModel": {r"\battn1$": False},
    "SD3Transformer2DModel": {r"^transformer_blocks\.\d+\.attn2?$": False},
    "FluxTransformer2DModel": {
        r"^transformer_blocks\.\d+\.attn$": False,
        r"^single_transformer_blocks\.\d+\.attn$": True,
    },
    "Flux2Transformer2DModel": {
        r"^transformer_blocks\.\d+\.attn$": False,
        r"^single_transformer_blocks\.\d+\.attn$": True,
    },
    "QwenImageTransformer2DModel": {r"^transformer_blocks\.\d+\.attn$": False},
    "ZImageTransformer2DModel": {r"^(noise_refiner|layers)\.\d+\.attention$": False},
}


class Tokens(NamedTuple):
    """How many tokens a transformer computes its keys from."""

    picture: int  # of the picture that is drawn
    text: int


def running_average(
    frames: torch.Tensor, momentum: float, previous: torch.Tensor | None = None
) -> torch.Tensor:
    """Return y with y_0 = x_0 and y_k = m y_(k-1) + (1 - m) x_k over ``frames``, in float32.

    frames: (frames, ..., channels). previous: (..., channels), y of the frame before the first of these; None
    at the start of a shot. It is exact at momentum 0 (the frames themselves) and 1 (the first).
    """
    averages = []
    for frame in frames.float():
        previous = frame if previous is None else torch.lerp(frame, previous, momentum)
        averages.append(previous)
    return torch.stack(averages)


class TemporalMomentum:
    """The running averages of all self-attention layers while one chunk is sampled.

    ``scopes`` names the branches and the step of the current call of the network, which gets the frames of
    all these branches; each layer has one running average per scope. ``tokens`` says where in its input the
    picture is; None is everywhere. They are read from ``carry`` and written to ``following`` for the next
    chunk.
    """

    def __init__(self, momentum: float, carry: Carry, following: Carry) -> None:
        self.momentum = momentum
        self.carry = carry
        self.following = following
        self.scopes: Sequence[str] = ()
        self.tokens: Tokens | None = None

    def __call__(self, layer: str, hidden_states: torch.Tensor, after_text: bool = False) -> torch.Tensor:
        """Return ``hidden_states`` with the picture's averaged over time.

        hidden_states: (scopes x frames, tokens, channels). after_text: whether they begin with the text's.
        Prompts that take over from one another must not lag, nor pictures that are shown.
        """
        keys = [f"attention/{scope}/{layer}" for scope in self.scopes]
        for key in keys:
            if key in self.following:
                raise PluginError(
                    f"layer {layer} is called twice in '{key.removesuffix(f'/{layer}')[10:]}'",
                    "give each branch its own name, and each plugin its own network",
                )
        length = hidden_states.shape[1]
        count = length if self.tokens is None else self.tokens.picture
        first = self.tokens.text if self.tokens is not None and after_text else 0
        before, picture, after = torch.split(hidden_states, [first, count, length - first - count], dim=1)
        frames = picture.reshape(len(keys), -1, *picture.shape[1:]).transpose(0, 1)
        found = [self.carry.fetch(key, picture.device) for key in keys]
        # A scope that isn't in the carry begins with the first of these frames.
        begun = zip(found, frames[0].float(), strict=True)
        previous = torch.stack([start if each is None else each for each, start in begun])
        mixed = running_average(frames, self.momentum, previous)  # (frames, scopes, tokens, channels)
        for key, last in zip(keys, mixed[-1], strict=True):
            self.following.keep(key, last)
        mixed = mixed.transpose(0, 1).flatten(0, 1).to(hidden_states.dtype)
        return mixed if count == length else torch.cat([before, mixed, after], dim=1)


class _Layer:
    """The hooks of one self-attention layer, which average what its keys and values are computed from.

    Both are linear in the hidden states, so one average serves both. Queries stay as they are, so momentum 0
    is plain self-attention, and momentum 1 is attention to the first frame. Attention processors are not
    touched.
    """

    def __init__(self, name: str, average: TemporalMomentum, after_text: bool) -> None:
        self.name = name
        self.average = average
        self.after_text = after_text
        self.given: torch.Tensor | None = None
        self.mixed: torch.Tensor | None = None

    def to_k(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.given = inputs[0]
        self.mixed = self.average(self.name, inputs[0], self.after_text)
        return (self.mixed, *inputs[1:])

    def to_v(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        mixed, given = self.mixed, self.given
        self.mixed = self.given = None
        if mixed is None or inputs[0] is not given:
            raise ModelError(
                f"layer {self.name} doesn't compute its keys and values from the same input",
                "use another attention processor, or `momentum=0`",
            )
        return (mixed, *inputs[1:])

    def fused(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """The same for a layer that computes queries, keys, values and more at once: averages the results."""
        width = self.width
        query, pair, rest = torch.split(output, [width, 2 * width, output.shape[-1] - 3 * width], dim=-1)
        return torch.cat([query, self.average(self.name, pair, self.after_text), rest], dim=-1)

    def hook(self, module: Any) -> list[Any]:
        """Register the hooks on an attention module; return their handles."""
        if hasattr(module, "to_qkv_mlp_proj"):  # FLUX.2's single blocks
            self.width = module.inner_dim
            return [module.to_qkv_mlp_proj.register_forward_hook(self.fused)]
        return [
            module.to_k.register_forward_pre_hook(self.to_k),
            module.to_v.register_forward_pre_hook(self.to_v),
        ]


def self_attention(network: Any) -> dict[str, tuple[Any, bool]]:
    """Return the self-attention modules of a network by name, and whether text comes first in them.

    Raises `ModelError` for a class that zs2kit doesn't know, and for fused projections, with which keys
    can't have another input than queries.
    """
    cls = type(network).__name__
    if cls not in SELF_ATTENTION:
        raise ModelError(
            f"a {cls} can't be given temporal momentum", f"use one of {', '.join(SELF_ATTENTION)}"
        )
    found = {}
    for name, module in network.named_modules():
        after_text = next((it for names, it in SELF_ATTENTION[cls].items() if re.search(names, name)), None)
        # A block that only attends to text (only_cross_attention) has an attn1 too.
        if after_text is not None and not getattr(module, "is_cross_attention", False):
            if getattr(module, "fused_projections", False):
                raise ModelError(
                    "the model's QKV projections are fused", "call unfuse_qkv_projections() first"
                )
            found[name] = module, after_text
    return found


@contextmanager
def attached(networks: Mapping[str, Any], average: TemporalMomentum) -> Iterator[None]:
    """Within this context the self-attention of ``networks`` has temporal momentum."""
    with ExitStack() as stack:
        for name, network in networks.items() if average.momentum else ():  # 0 is plain self-attention
            for place, (module, after_text) in self_attention(network).items():
                for handle in _Layer(f"{name}.{place}", average, after_text).hook(module):
                    stack.callback(handle.remove)
        yield
