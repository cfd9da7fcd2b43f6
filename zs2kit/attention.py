"""Temporal momentum attention: keys and values come from a running average over frames (ZS2, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, NamedTuple

import torch

from zs2kit.carry import Carry
from zs2kit.errors import ModelError, PluginError


class Tokens(NamedTuple):
    """How many tokens of each kind a transformer computes its keys from."""

    picture: int  # tokens of the picture that is drawn
    text: int


def at_start(tokens: Tokens, length: int) -> int:
    """Place: the picture comes first."""
    return 0


def after_text(tokens: Tokens, length: int) -> int:
    """Place: the text comes first, and then the picture."""
    return tokens.text


def at_end(tokens: Tokens, length: int) -> int:
    """Place: the picture comes last."""
    return length - tokens.picture


# How many tokens there are of each kind, and in all -> the position of the picture's first one
Place = Callable[[Tokens, int], int]
# For each class of network: the names of the attention modules in which the picture attends to itself, and
# where the picture's tokens are among those that keys are computed from. The other tokens (text, padding,
# pictures that are shown) stay as they are. A ControlNet for several kinds of maps has one more text token.
SELF_ATTENTION: dict[str, dict[str, Place]] = {
    "UNet2DConditionModel": {r"\battn1$": at_start},
    "ControlNetModel": {r"\battn1$": at_start},
    "SD3Transformer2DModel": {r"^transformer_blocks\.\d+\.attn2?$": at_start},
    "SD3ControlNetModel": {r"^transformer_blocks\.\d+\.attn2?$": at_start},
    "FluxTransformer2DModel": {
        r"^transformer_blocks\.\d+\.attn$": at_start,
        r"^single_transformer_blocks\.\d+\.attn$": after_text,
    },
    "FluxControlNetModel": {
        r"^transformer_blocks\.\d+\.attn$": at_start,
        r"^single_transformer_blocks\.\d+\.attn$": at_end,
    },
    "Flux2Transformer2DModel": {
        r"^transformer_blocks\.\d+\.attn$": at_start,
        r"^single_transformer_blocks\.\d+\.attn$": after_text,
    },
    "QwenImageTransformer2DModel": {r"^transformer_blocks\.\d+\.attn$": at_start},
    "QwenImageControlNetModel": {r"^transformer_blocks\.\d+\.attn$": at_start},
    "ZImageTransformer2DModel": {r"^(noise_refiner|layers)\.\d+\.attention$": at_start},
    "ZImageControlNetModel": {
        r"^(noise_refiner|control_noise_refiner|control_layers)\.\d+\.attention$": at_start
    },
}


# One call of a network: the averages of the frame before, the tokens, and the call's arguments -> what the
# network returns, and the averages of the last frame
Work = Callable[..., tuple[Any, list[torch.Tensor]]]
Run = Callable[..., tuple[Any, list[torch.Tensor]]]  # a work and its arguments -> what the work returns


def running_average(
    frames: torch.Tensor, momentum: float, previous: torch.Tensor | None = None
) -> torch.Tensor:
    """Return y with y_0 = x_0 and y_k = m y_(k-1) + (1 - m) x_k over ``frames``, in float32.

    frames: (frames, ..., channels). previous: (..., channels), y of the frame before the first of these; None
    at the start of a shot. The result is exact at momentum 0 (the frames themselves) and 1 (the first frame).
    """
    averages = []
    for frame in frames.float():
        previous = frame if previous is None else torch.lerp(frame, previous, momentum)
        averages.append(previous)
    return torch.stack(averages)


class TemporalMomentum:
    """The running averages of all self-attention layers while one chunk is sampled.

    ``scopes`` names the step and the branches of the network's current call, which gets the frames of all
    these branches; each scope has running averages of its own. ``tokens`` says where in the layers' input the
    picture is; None means everywhere. A network's averages are those of its layers, in the order in which the
    layers are called. They are read from ``carry`` and written to ``following`` for the next chunk.
    """

    def __init__(self, momentum: float, carry: Carry, following: Carry) -> None:
        self.momentum = momentum
        self.carry = carry
        self.following = following
        self.scopes: Sequence[str] = ()
        self.tokens: Tokens | None = None
        self._networks: dict[str, _Averages] = {}

    def of(self, name: str) -> _Averages:
        """Return the averages of the network called ``name``, always the same object."""
        return self._networks.setdefault(name, _Averages(self.momentum))

    def call(self, name: str, network: Any, run: Run, work: Work, *args: Any, **kwargs: Any) -> Any:
        """Have ``run`` do the ``work`` of ``network`` with these arguments; return the network's result."""
        averaged = self.momentum and self.of(name).layers
        keys = [f"attention/{name}/{scope}" for scope in self.scopes] if averaged else []
        if twice := [scope for scope, key in zip(self.scopes, keys, strict=False) if key in self.following]:
            raise PluginError(
                f"the network {name} is called twice in '{twice[0]}'",
                "give each branch its own name, and each plugin its own network",
            )
        previous = [self.carry.fetch(key, network.device) for key in keys]
        output, last = run(work, previous, self.tokens, args, kwargs)
        for key, each in zip(keys, last, strict=True):
            self.following.keep(key, each)
        return output


class _Averages:
    """The running averages of a network's layers in one of its calls."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.layers: dict[str, Layer] = {}

    def work(self, forward: Callable[..., Any]) -> Work:
        """Return a network's call as a function of all that it depends on; it returns all that it changes."""

        def work(
            previous: Sequence[torch.Tensor | None], tokens: Tokens | None, args: Any, kwargs: Any
        ) -> tuple[Any, list[torch.Tensor]]:
            self.begin(previous, tokens)
            return forward(*args, **kwargs), self.end()

        return work

    def begin(self, previous: Sequence[torch.Tensor | None], tokens: Tokens | None) -> None:
        """Begin a call; ``previous`` is what `end` returned last time, None for a scope that starts anew."""
        self.previous = previous
        self.tokens = tokens
        self.reached = 0
        self.last: list[torch.Tensor] = []

    def end(self) -> list[torch.Tensor]:
        """Return the averages of the last frame, (numbers,) for each scope."""
        return list(torch.cat(self.last, dim=1)) if self.last else []

    def average(self, hidden_states: torch.Tensor, place: Place) -> torch.Tensor:
        """Return ``hidden_states`` with those of the picture's tokens averaged over time.

        hidden_states: (scopes x frames, tokens, channels). place: where the picture's tokens are.
        The other tokens aren't averaged: a new prompt, or a picture that is shown, must act at once.
        """
        length = hidden_states.shape[1]
        count = length if self.tokens is None else self.tokens.picture
        first = 0 if self.tokens is None else place(self.tokens, length)
        before, picture, after = torch.split(hidden_states, [first, count, length - first - count], dim=1)
        frames = picture.reshape(len(self.previous), -1, *picture.shape[1:]).transpose(0, 1)
        numbers = frames[0, 0].numel()
        # A scope that isn't in the carry starts with the first of these frames.
        begun = zip(self.previous, frames[0].float(), strict=True)
        previous = torch.stack(
            [
                start if each is None else each.narrow(0, self.reached, numbers).view_as(start)
                for each, start in begun
            ]
        )
        self.reached += numbers
        mixed = running_average(frames, self.momentum, previous)  # (frames, scopes, tokens, channels)
        self.last.append(mixed[-1].flatten(1).clone())  # a copy, or all frames would stay in memory
        mixed = mixed.transpose(0, 1).flatten(0, 1).to(hidden_states.dtype)
        return mixed if count == length else torch.cat([before, mixed, after], dim=1)


class Layer:
    """The hooks of one self-attention layer: they average what its keys and values are computed from.

    Keys and values are linear in the hidden states, so one average serves both. Queries stay as they are, so
    momentum 0 is plain self-attention, and momentum 1 is attention to the first frame. Attention processors
    are not touched.
    """

    def __init__(self, name: str, averages: _Averages, place: Place) -> None:
        self.name = name
        self.averages = averages
        self.place = place
        self.given: torch.Tensor | None = None
        self.mixed: torch.Tensor | None = None

    def to_k(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Before the keys."""
        self.given = inputs[0]
        self.mixed = self.averages.average(inputs[0], self.place)
        return (self.mixed, *inputs[1:])

    def to_v(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Before the values."""
        mixed, given = self.mixed, self.given
        self.mixed = self.given = None
        if mixed is None or inputs[0] is not given:
            raise ModelError(
                f"layer {self.name} doesn't compute its keys and values from the same input",
                "use another attention processor, or `momentum=0`",
            )
        return (mixed, *inputs[1:])

    def fused(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """For a layer that computes queries, keys, values and more in one go: average the keys and values."""
        width = self.width
        query, pair, rest = torch.split(output, [width, 2 * width, output.shape[-1] - 3 * width], dim=-1)
        return torch.cat([query, self.averages.average(pair, self.place), rest], dim=-1)

    def hook(self, module: Any) -> list[Any]:
        """Register the hooks on an attention module; return their handles."""
        if hasattr(module, "to_qkv_mlp_proj"):  # FLUX.2's single blocks
            self.width = module.inner_dim
            return [module.to_qkv_mlp_proj.register_forward_hook(self.fused)]
        return [
            module.to_k.register_forward_pre_hook(self.to_k),
            module.to_v.register_forward_pre_hook(self.to_v),
        ]


def self_attention(network: Any) -> dict[str, tuple[Any, Place]]:
    """Return the self-attention modules of a network by name, each with the place of the picture's tokens.

    Raises `ModelError` for a class that zs2kit doesn't know, and for fused projections, which compute queries
    and keys from the same input.
    """
    cls = type(network).__name__
    if cls not in SELF_ATTENTION:
        raise ModelError(
            f"a {cls} can't be given temporal momentum", f"use one of {', '.join(SELF_ATTENTION)}"
        )
    found = {}
    for name, module in network.named_modules():
        place = next((it for names, it in SELF_ATTENTION[cls].items() if re.search(names, name)), None)
        # Blocks that attend only to text (only_cross_attention) have an attn1 too.
        if place is not None and not getattr(module, "is_cross_attention", False):
            if getattr(module, "fused_projections", False):
                raise ModelError(
                    "the model's QKV projections are fused", "call unfuse_qkv_projections() first"
                )
            found[name] = module, place
    return found


def directly(name: str, network: Any) -> Run:
    """Return a function that simply calls the network."""
    return lambda work, *inputs: work(*inputs)


@contextmanager
def attached(
    networks: Mapping[str, Any], average: TemporalMomentum, how: Callable[[str, Any], Run] = directly
) -> Iterator[None]:
    """Within this context, the self-attention of ``networks`` has temporal momentum.

    how: a network's name and the network -> the function that calls it.
    """
    with ExitStack() as stack:
        for name, network in networks.items():
            averages = average.of(name)
            # 0 is plain self-attention
            for path, (module, place) in self_attention(network).items() if average.momentum else ():
                layer = averages.layers.setdefault(path, Layer(f"{name}.{path}", averages, place))
                for handle in layer.hook(module):
                    stack.callback(handle.remove)
            work = averages.work(network.forward)
            call = partial(average.call, name, network, how(name, network), work)
            stack.enter_context(_called(network, wraps(network.forward)(call)))
        yield


@contextmanager
def _called(network: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Within this context, calls of ``network`` are calls of ``forward``."""
    own = vars(network).get("forward")
    network.forward = forward
    try:
        yield
    finally:
        del network.forward
        if own is not None:  # a `forward` that something else, such as accelerate, has put there
            network.forward = own
