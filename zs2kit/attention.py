"""Temporal momentum attention: keys and values are a running average over frames (ZS2, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from zs2kit.carry import Carry
from zs2kit.errors import ModelError, PluginError

# A network's class -> which of its attention modules attend from the picture to itself, by their names
SELF_ATTENTION = {"UNet2DConditionModel": r"\battn1$", "ControlNetModel": r"\battn1$"}


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
    all these branches; each layer has one running average per scope. They are read from ``carry`` and
    written to ``following`` for the next chunk.
    """

    def __init__(self, momentum: float, carry: Carry, following: Carry) -> None:
        self.momentum = momentum
        self.carry = carry
        self.following = following
        self.scopes: Sequence[str] = ()

    def __call__(self, layer: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return ``hidden_states`` (scopes x frames, tokens, channels) averaged over time, same dtype."""
        keys = [f"attention/{scope}/{layer}" for scope in self.scopes]
        for key in keys:
            if key in self.following:
                raise PluginError(
                    f"layer {layer} is called twice in '{key.removesuffix(f'/{layer}')[10:]}'",
                    "give branches names of their own, and plugins networks of their own",
                )
        found = [self.carry.fetch(key, hidden_states.device) for key in keys]
        previous = torch.stack([each for each in found if each is not None]) if found[0] is not None else None
        frames = hidden_states.reshape(len(keys), -1, *hidden_states.shape[1:]).transpose(0, 1)
        mixed = running_average(frames, self.momentum, previous)  # (frames, scopes, tokens, channels)
        for key, last in zip(keys, mixed[-1], strict=True):
            self.following.keep(key, last)
        return mixed.transpose(0, 1).flatten(0, 1).to(hidden_states.dtype)


class _Layer:
    """The hooks of one self-attention layer, which average what its keys and values are computed from.

    Both are linear in the hidden states, so one average serves both. Queries stay as they are, so momentum 0
    is plain self-attention, and momentum 1 is attention to the first frame. Attention processors are not
    touched.
    """

    def __init__(self, name: str, average: TemporalMomentum) -> None:
        self.name = name
        self.average = average
        self.given: torch.Tensor | None = None
        self.mixed: torch.Tensor | None = None

    def to_k(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.given = inputs[0]
        self.mixed = self.average(self.name, inputs[0])
        return (self.mixed, *inputs[1:])

    def to_v(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        mixed, given = self.mixed, self.given
        self.mixed = self.given = None
        if mixed is None or inputs[0] is not given:
            raise ModelError(
                f"layer {self.name} computes its values from something else than its keys",
                "use another attention processor, or `momentum=0`",
            )
        return (mixed, *inputs[1:])


def self_attention(network: Any) -> dict[str, Any]:
    """Return the self-attention modules of a network by name.

    Raises `ModelError` for a class that zs2kit doesn't know, and for fused projections, with which keys
    can't have another input than queries.
    """
    cls = type(network).__name__
    if cls not in SELF_ATTENTION:
        raise ModelError(
            f"a {cls} can't be given temporal momentum", f"use a {' or a '.join(SELF_ATTENTION)}"
        )
    found = {}
    for name, module in network.named_modules():
        # A block that only attends to text (only_cross_attention) has an attn1 too.
        if re.search(SELF_ATTENTION[cls], name) and not getattr(module, "is_cross_attention", False):
            if getattr(module, "fused_projections", False):
                raise ModelError(
                    "the model's QKV projections are fused", "call unfuse_qkv_projections() first"
                )
            found[name] = module
    return found


@contextmanager
def attached(networks: Mapping[str, Any], average: TemporalMomentum) -> Iterator[None]:
    """Within this context the self-attention of ``networks`` has temporal momentum."""
    with ExitStack() as stack:
        for name, network in networks.items() if average.momentum else ():  # 0 is plain self-attention
            for place, module in self_attention(network).items():
                layer = _Layer(f"{name}.{place}", average)
                for hooked, hook in ((module.to_k, layer.to_k), (module.to_v, layer.to_v)):
                    stack.callback(hooked.register_forward_pre_hook(hook).remove)
        yield
