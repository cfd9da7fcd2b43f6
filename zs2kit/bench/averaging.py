"""Other ways to average in attention than zs2kit's, to compare them with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zs2kit import attention
from zs2kit.attention import Layer, Place
from zs2kit.model import Model

LAYERS: dict[str, Callable[[int, str], bool]] = {
    "all": lambda number, name: True,
    "every other": lambda number, name: number % 2 == 0,
    "single": lambda number, name: name.startswith("single_"),
    "double": lambda number, name: not name.startswith("single_"),
}
"""Which attention layers are averaged, by their number and their name."""


class AfterNorm(Layer):
    """Averages the keys after their norm, and the values, instead of what both are computed from."""

    def hook(self, module: Any) -> list[Any]:
        """See `Layer`."""
        return [part.register_forward_hook(self.average) for part in (module.to_v, module.norm_k)]

    def average(self, module: Any, inputs: Any, output: Tensor) -> Tensor:
        """The same for the output of a part: (frames, tokens, ...)."""
        return self.averages.average(output, self.place)


class Anchored(Layer):
    """Attends to a shot's first frame as well, whose keys and values come after those of the average.

    They come from the network itself, with its norms and positions, so they are added where both are given to
    the attention. That is for clips of one shot, and where calls aren't recorded.
    """

    computed: ClassVar[Anchored | None] = None  # whose keys and values were computed last

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.firsts: deque[list[Tensor]] = deque()  # keys and values, call by call, as each chunk makes them

    def to_v(self, module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """See `Layer`."""
        Anchored.computed = self
        return super().to_v(module, inputs)

    def beside(self, *both: Tensor) -> list[Tensor]:
        """Return keys and values, (scopes x frames, heads, tokens, channels) each, with the first frame's."""
        scopes, tokens = len(self.averages.previous), self.averages.tokens
        if self.averages.previous[0] is None:
            frames = [each.view(scopes, -1, *each.shape[1:]) for each in both]
            picture = slice(None) if tokens is None else slice(tokens.text, tokens.text + tokens.picture)
            self.firsts.append([each[:, :1, :, picture].clone() for each in frames])
        else:
            self.firsts.rotate(-1)
        return [
            torch.cat([each, first.expand(-1, len(each) // scopes, -1, -1, -1).flatten(0, 1)], dim=2)
            for each, first in zip(both, self.firsts[-1], strict=True)
        ]


@contextmanager
def anchored() -> Iterator[None]:
    """Within this context all momentum is that of `Anchored`."""
    attend = F.scaled_dot_product_attention

    def attend_to_both(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        layer, Anchored.computed = Anchored.computed, None
        if layer is not None:
            key, value = layer.beside(key, value)
        return attend(query, key, value, **given)

    with (
        _replaced(attention, "Layer", Anchored),
        _replaced(F, "scaled_dot_product_attention", attend_to_both),
    ):
        yield


@contextmanager
def varied(model: Model, layers: str, text: bool, after_norm: bool) -> Iterator[None]:
    """Within this context momentum acts in these ``layers`` alone, on the ``text`` too, or after the norm.

    Only single blocks have text among what their keys are computed from.
    """
    found = attention.self_attention

    def chosen(network: Any) -> dict[str, tuple[Any, Place]]:
        modules = found(network).items()
        return {name: each for number, (name, each) in enumerate(modules) if LAYERS[layers](number, name)}

    with ExitStack() as stack:
        stack.enter_context(_replaced(attention, "self_attention", chosen))
        if after_norm:
            stack.enter_context(_replaced(attention, "Layer", AfterNorm))
        if text:  # as in a U-Net, whose layers average all tokens
            stack.enter_context(_replaced(type(model.network), "tokens", lambda *_: None))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
