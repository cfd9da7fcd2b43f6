"""Methods drawn on cases, and measured: what the tables of quality and ablation are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray

import zs2kit
from zs2kit import attention, denoiser, flow, motion, noise, plugins, sampler, vae
from zs2kit.bench.baselines import GUIDANCE, zs2
from zs2kit.bench.cases import Case, Measure, source_images
from zs2kit.bench.cells import Cells
from zs2kit.bench.search import searched
from zs2kit.model import Model
from zs2kit.puppets.yardsticks import Images, Numbers

# Clips of zs2kit's are drawn anew when the method changes.
_METHOD = (attention, denoiser, flow, motion, noise, sampler, vae)
CODE = sha256(b"".join(Path(str(each.__file__)).read_bytes() for each in _METHOD)).hexdigest()[:12]


@dataclass(frozen=True)
class Method:
    """A way to draw clips, and its settings."""

    name: str  # as the tables call it
    draw: Callable[..., Images]  # (model, case, steps, **settings)
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None  # if others than those of the run


def zs2_method(name: str, *, edited: bool, **settings: Any) -> Method:
    """zs2kit at these settings and its defaults for the others, which are part of what a cell is known by."""
    known = inspect.signature(zs2kit.edit if edited else zs2kit.generate).parameters
    defaults = {name: known[name].default for name in ("noise", "momentum", "divergence")}
    if edited:
        defaults |= {"flow_momentum": motion.MOMENTUM, "tiny_vae": True}
    return Method(name, zs2, {"edited": edited, **defaults, **settings})


class Runs:
    """Draws and measures with one model, and keeps what was done in cells."""

    def __init__(self, cells: Cells, model: Model, steps: int) -> None:
        self.cells = cells
        self.model = model
        self.steps = steps
        self._weights = fingerprint(next(model.network.module.parameters()))
        self._twin = "" if model.tiny_vae is None else fingerprint(next(model.tiny_vae.parameters()))

    @cached_property
    def _reference(self) -> str:
        """The code of the plugin, and the model's own adapter if it has one."""
        files = [Path(inspect.getfile(plugins.load("reference")))]
        if (encoder := self.model.bundled("reference/image_encoder")) is not None:
            files += sorted(encoder.parent.rglob("*.safetensors"))
        return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]

    @cached_property
    def _measure(self) -> Measure:
        return Measure()

    def settings(self, method: Method, case: Case) -> dict[str, Any]:
        """All that determines a cell."""
        given = dict(method.settings)
        if "momentum" in given and given["momentum"] is None:
            given["momentum"] = self.model.network.momentum
        return {
            "method": method.draw.__name__,
            **({"code": CODE} if method.draw in (zs2, searched) else {}),
            **({"plugin": self._reference} if method.settings.get("reference") else {}),
            **({"twin": self._twin} if method.settings.get("tiny_vae") else {}),
            **given,
            "prompt": case.prompt,
            "case": case.number,
            "frames": case.frames,
            "seed": case.seed,
            "steps": method.steps or self.steps,
            "guidance": GUIDANCE,
            "model": f"{self.model.name} {self._weights}",
            "device": f"{self.model.device.type} {self.model.dtype}",
        }

    def frames(self, method: Method, case: Case) -> Images:
        """The clip that a method draws of a case; drawn where there is none yet."""
        return self.cells.clip(
            self.settings(method, case),
            lambda: method.draw(self.model, case, method.steps or self.steps, **method.settings),
        )

    def numbers(self, method: Method, case: Case) -> Numbers:
        """What is measured of that clip."""
        edited = bool(method.settings.get("edited"))
        frames = self.frames(method, case)
        numbers = self.cells.numbers(
            self.settings(method, case), Measure.rules, lambda: self._measure(case, frames, edited)
        )
        if method.draw is real:  # it was asked for nothing
            return {name: value for name, value in numbers.items() if not name.endswith(" right")}
        return numbers

    def fill(self, methods: Sequence[Method], cases: Iterable[Case]) -> None:
        """Draw and measure case by case, all methods of one before the next, and say how far it is."""
        for case in cases:
            for method in methods:
                new = not self.cells.has(self.settings(method, case))
                self.numbers(method, case)
                if new:
                    seconds = self.cells.seconds(self.settings(method, case))
                    click.echo(f"{case.number:3d} {case.prompt:40s} {method.name:45s} {seconds:6.1f} s")

    def done(self, methods: Sequence[Method], cases: Iterable[Case]) -> list[Case]:
        """The cases that all methods have been drawn of."""
        return [
            case for case in cases if all(self.cells.has(self.settings(method, case)) for method in methods)
        ]

    def values(self, method: Method, cases: Sequence[Case], name: str) -> list[float]:
        """A number of each clip that has it."""
        found = (self.numbers(method, case).get(name) for case in cases)
        return [value for value in found if value is not None]

    def apart(self, method: Method, other: Method, cases: Sequence[Case], name: str) -> list[float]:
        """How far a number of ``method`` is above that of ``other``, of each clip that has both."""
        pairs = ([self.numbers(each, case).get(name) for each in (method, other)] for case in cases)
        return [one - two for one, two in pairs if one is not None and two is not None]

    def table(self, methods: Sequence[Method], cases: Sequence[Case], columns: Sequence[Column]) -> str:
        """Markdown: a line for each method, with the mean of each column's number and its 95% interval."""
        lines = ["| | " + " | ".join(column.title for column in columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for method in methods:
            found = [column.shown(self.values(method, cases, column.name)) for column in columns]
            lines.append(f"| {method.name} | {' | '.join(found)} |")
        return "\n".join(lines)


class Column(NamedTuple):
    """A number as a table shows it."""

    name: str  # as the measures call it
    title: str
    form: str = ".1f"
    factor: float = 1.0

    def shown(self, values: Sequence[float]) -> str:
        """The mean of ``values`` and the ends of its 95% interval."""
        if not values:
            return ""
        mean, low, high = (format(self.factor * each, self.form) for each in interval(values))
        return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def resampled(values: Sequence[float]) -> NDArray[np.float64]:
    """The means (2000,) of ``values`` drawn again, with replacement; the same draws for as many values."""
    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    means: NDArray[np.float64] = np.asarray(values, np.float64)[drawn].mean(axis=1)
    return means


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and the ends of its 95% interval by resampling the values."""
    low, high = np.percentile(resampled(values), (2.5, 97.5))
    return float(np.mean(values)), float(low), float(high)


def fingerprint(weights: torch.Tensor) -> str:
    """What a network is known by: a hash of one of its tensors."""
    return sha256(weights.detach().float().cpu().numpy().tobytes()).hexdigest()[:12]


def real(model: Model, case: Case, steps: int, *, edited: bool) -> Images:
    """The rendered clip itself: what the measures give where all is true."""
    return source_images(case)
