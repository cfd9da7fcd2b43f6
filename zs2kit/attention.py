"""Temporal momentum attention: keys and values are a running average over frames (ZS2, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from zs2kit.carry import Carry
from zs2kit.errors import ModelError, PluginError


def running_average(
    frames: torch.Tensor, momentum: float, previous: torch.Tensor | None = None
) -> torch.Tensor:
    """Return y with y_0 = x_0 and y_k = m y_(k-1) + (1 - m) x_k over ``frames``, in float32.

    frames: (frames, tokens, channels). previous: (tokens, channels), y of the frame before the
    first; None at the start of a shot. Exact at momentum 0 (the frames themselves) and 1 (the first).
    """
    averages = []
    for frame in frames.float():
        previous = frame if previous is None else torch.lerp(frame, previous, momentum)
        averages.append(previous)
    return torch.stack(averages)


class TemporalMomentum:
    """The running averages of all self-attention layers while one chunk is sampled.

    ``scope`` names the call of the denoiser under way (step and branch); each layer has one running
    average per scope. They are read from ``carry`` and left in ``following`` for the next chunk.
    """

    def __init__(self, momentum: float, carry: Carry, following: Carry) -> None:
        self.momentum = momentum
        self.carry = carry
        self.following = following
        self.scope = ""

    def __call__(self, layer: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return ``hidden_states`` (frames, tokens, channels) averaged over time, same dtype."""
        key = f"attention/{self.scope}/{layer}"
        if key in self.following:
            raise PluginError(
                f"layer {layer} is called twice in '{self.scope}': branches need names of their own, and "
                "plugins networks of their own"
            )
        previous = self.carry.fetch(key, hidden_states.device)
        mixed = running_average(hidden_states, self.momentum, previous)
        self.following.keep(key, mixed[-1])
        return mixed.to(hidden_states.dtype)


class MomentumProcessor:
    """An attention processor that hands averaged frames to the one it wraps, as what is attended to.

    Keys and values are linear in the hidden states, so one average serves both; queries stay as they
    are. Momentum 0 is then plain self-attention, and 1 attention to the first frame.
    """

    def __init__(self, inner: Any, layer: str, average: TemporalMomentum) -> None:
        self.inner = inner
        self.layer = layer
        self.average = average

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if encoder_hidden_states is None:  # else the block attends to text alone (only_cross_attention)
            encoder_hidden_states = self.average(self.layer, hidden_states)
        attended: torch.Tensor = self.inner(
            attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs
        )
        return attended


def self_attention(network: Any) -> dict[str, Any]:
    """Return the processors of a network's self-attention layers by name.

    Raises `ModelError` where projections are fused, since then keys can't have another input than queries.
    """
    found = {}
    for name, processor in network.attn_processors.items():
        if name.endswith("attn1.processor"):
            if getattr(network.get_submodule(name.removesuffix(".processor")), "fused_projections", False):
                raise ModelError("the model's QKV projections are fused; call unfuse_qkv_projections() first")
            found[name] = processor
    return found


@contextmanager
def attached(networks: Mapping[str, Any], average: TemporalMomentum) -> Iterator[None]:
    """Give the self-attention of ``networks`` temporal momentum, and take it away again whatever happens."""
    if average.momentum == 0:  # exactly plain self-attention
        yield
        return
    originals = {name: dict(network.attn_processors) for name, network in networks.items()}
    try:
        for name, network in networks.items():
            wrapped = {
                layer: MomentumProcessor(processor, f"{name}.{layer}", average)
                for layer, processor in self_attention(network).items()
            }
            network.set_attn_processor(originals[name] | wrapped)
        yield
    finally:
        for name, network in networks.items():
            network.set_attn_processor(dict(originals[name]))  # a copy: diffusers empties what it is given
