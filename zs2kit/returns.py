"""Checks of what hooks return, so that a plugin's mistake becomes one line that names plugin and hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from zs2kit.errors import PluginError, UsageError

Given = Mapping[str, Any]  # a hook's arguments by their names


def check(plugin: str, hook: str, result: Any, given: Given) -> None:
    """Raise an error if ``result`` isn't what ``hook`` may return; None is always allowed.

    plugin: its name, for the message. given: all arguments of the hook. A `PluginError` says what was
    returned and what is wanted; a `UsageError`, that there is no source to keep a part of.
    """
    if result is None or hook not in WANTED:
        return
    if hook == "keep" and given["chunk"].frames is None:
        raise UsageError(
            f"plugin '{plugin}' keeps a part of the source, but a clip made from text alone has none",
            "use it to edit a clip",
        )
    if fault := WANTED[hook](result, given):
        returned, wanted = fault
        raise PluginError(
            f"plugin '{plugin}' returned {returned} from {hook}()", f"return {wanted}, or None for nothing"
        )


Fault = tuple[str, str] | None  # what was returned, and what is wanted; None if all is well


def _prepare(result: Any, given: Given) -> Fault:
    import torch

    wanted = "a dict of tensors by their names"
    if not isinstance(result, Mapping):
        return _described(result), wanted
    for name, value in result.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            return f"a dict with {_described(value)} as {name!r}", wanted
    return None


def _keep(result: Any, given: Given) -> Fault:
    import numpy as np

    chunk = given["chunk"]
    shape = (chunk.length, *chunk.fit.source)
    wanted = f"a NumPy array of float32 {_sides(shape)} (frames, height, width) in [0, 1]"
    if not isinstance(result, np.ndarray) or result.dtype != np.float32 or result.shape != shape:
        return _described(result), wanted
    low, high = result.min(), result.max()
    if not (low >= 0 and high <= 1):  # NaN is neither
        return f"numbers from {low:g} to {high:g}", wanted
    return None


def _difference(name: str) -> Callable[[Any, Given], Fault]:
    """Return the check for a hook that returns what to add to its argument called ``name``."""

    def difference(result: Any, given: Given) -> Fault:
        shape = tuple(given[name].shape)
        if _is_floats(result) and tuple(result.shape) == shape:
            return None
        return _described(result), f"a tensor of floats {_sides(shape)}, the difference to `{name}`"

    return difference


def _channels(result: Any, given: Given) -> Fault:
    frames, _, *size = given["latents"].shape
    if _is_floats(result) and result.ndim == 4 and [len(result), *result.shape[2:]] == [frames, *size]:
        return None
    shape = _sides((frames, "channels", *size))
    return _described(result), f"a tensor of floats {shape} (frames, channels, height, width)"


def _initial_latents(result: Any, given: Given) -> Fault:
    import torch

    noise, steps = given["noise"], len(given["steps"])
    shape = tuple(noise.shape)
    wanted = (
        f"a tuple of a tensor of float32 {_sides(shape)} on {noise.device}, as `noise` is, and a step, "
        f"an int from 0 to {steps}"
    )
    if not isinstance(result, tuple | list) or len(result) != 2:
        return _described(result), wanted
    latents, first = result
    if not isinstance(first, Integral) or isinstance(first, bool) or int(first) not in range(steps + 1):
        return _described(result), wanted
    if not _is_floats(latents) or latents.dtype != torch.float32 or tuple(latents.shape) != shape:
        return _described(result), wanted
    return None if latents.device == noise.device else (f"latents on {latents.device}", wanted)


def _guidance(result: Any, given: Given) -> Fault:
    from zs2kit.networks.base import Branch

    frames = given["chunk"].length
    wanted = "a list of Branch"
    if not (isinstance(result, list | tuple) and result and all(isinstance(each, Branch) for each in result)):
        return _described(result), wanted
    for branch in result:
        embeds = branch.prompt_embeds
        if not _is_floats(embeds) or embeds.ndim != 3 or len(embeds) not in (1, frames):
            shape = _sides((f"(1 or {frames})", "tokens", "channels"))
            return (
                f"a Branch called '{branch.name}' with {_described(embeds)} as its prompt_embeds",
                f"{wanted}, with a tensor of floats {shape} each",
            )
    weights = [each.weight for each in result]
    if not all(isinstance(each, Real) for each in weights):
        return (
            f"branches with the weights {_described(weights)}",
            f"{wanted}, with a number as each one's weight",
        )
    if not abs(sum(weights) - 1) <= 1e-4 * max(1, *map(abs, weights)):
        return f"branches whose weights sum to {sum(weights):g}", f"{wanted} whose weights sum to 1"
    names = [each.name for each in result]
    if len({*names}) < len(names):
        return f"branches called {_listed(names)}", f"{wanted}, each with a name of its own"
    return None


def _denoiser_inputs(result: Any, given: Given) -> Fault:
    from zs2kit.networks.base import DenoiserInputs

    frames = len(given["latents"])
    if not isinstance(result, DenoiserInputs):
        return _described(result), "DenoiserInputs"
    residual = f"tensors of floats {_sides((frames, 'channels', 'height', 'width'))}"

    def fits(value: Any) -> bool:
        return _is_floats(value) and value.ndim == 4 and len(value) == frames

    if not isinstance(result.down, Sequence) or not all(map(fits, result.down)):
        return f"DenoiserInputs with {_described(result.down)} as down", f"{residual} there"
    if result.mid is not None and not fits(result.mid):
        return f"DenoiserInputs with {_described(result.mid)} as mid", f"one of such {residual} there"
    if not isinstance(result.conditions, Mapping):
        return f"DenoiserInputs with {_described(result.conditions)} as conditions", "a dict there"
    if not isinstance(result.inputs, Mapping):
        return f"DenoiserInputs with {_described(result.inputs)} as inputs", "a dict there"
    return None


WANTED: dict[str, Callable[[Any, Given], Fault]] = {
    "prepare": _prepare,
    "guidance": _guidance,
    "initial_latents": _initial_latents,
    "denoiser_inputs": _denoiser_inputs,
    "channels": _channels,
    "estimate": _difference("estimate"),
    "keep": _keep,
    "decoded": _difference("pixels"),
}


def _is_floats(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _described(value: Any) -> str:
    """Return in a few words what a plugin returned."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):  # torch's tensors and NumPy's arrays
        kind = "a NumPy array" if type(value).__module__ == "numpy" else "a tensor"
        return f"{kind} of {str(value.dtype).removeprefix('torch.')} {_sides(value.shape) or 'without sides'}"
    if isinstance(value, list | tuple):
        inside = [_described(each) for each in value[:3]] + ["..."] * (len(value) > 3)
        return (
            f"a {type(value).__name__} ({_listed(inside)})" if inside else f"an empty {type(value).__name__}"
        )
    if isinstance(value, bool | int | float):
        return repr(value)
    return f"what is of the type {type(value).__name__}"


def _sides(shape: Sequence[Any]) -> str:
    return "x".join(map(str, shape))


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
