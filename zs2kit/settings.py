"""Settings: what the frames depend on besides the clip, the model and the plugins. Each is declared once.

A field made with `option` carries its default, its description and the values that it takes. The command
line, the checks, reports, the journal and docs/options.md are all made from these fields. Plugins declare
their options in the same way.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from zs2kit.errors import PluginError, UsageError, first_line

T = typing.TypeVar("T")

LARGEST = 16384  # pixels: the longest side that a picture may have, in H.264 too

Prompts = str | Mapping[int, str]  # one for all frames, or several by the frame at which each starts
Cuts = (
    Literal["auto"] | tuple[Fraction | float, ...]
)  # found while the clip is read, or their times in seconds
Scheduler = Literal["ddim", "euler", "dpm++", "unipc", "lcm"]
Noise = Literal["dependency", "orbit", "mixed", "progressive", "independent", "shared"]


@dataclass(frozen=True)
class Kind:
    """A kind of value: its description, its syntax and its check.

    For values that are not text, numbers or booleans, and for text that names a file or a model.
    """

    takes: str  # which values, in words
    metavar: str
    parse: Callable[[str], Any]  # raises ValueError for bad syntax
    valid: Callable[[Any], bool]


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    kind: Kind | None = None,
    flag: str | None = None,
    shown: str | None = None,
) -> Any:
    """Declare an option: a dataclass field with its description and, for numbers, its range.

    kind: for types other than bool, int, float, str and a Literal of strings; `FILE` for text that is the
    path of a file, and `MODEL` for text that names a model (the web page doesn't let anybody type these).
    flag: its name on the command line, if that differs from the field's name.
    shown: the default in words, for help texts.
    """
    about = {"help": help, "minimum": minimum, "maximum": maximum, "kind": kind, "flag": flag, "shown": shown}
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True)
class Option:
    """An option, as read from its dataclass field."""

    name: str
    type: type  # bool, int, float or str; object for a value of any other type
    optional: bool  # whether None is allowed
    choices: tuple[str, ...]  # empty if any value is allowed
    default: Any
    help: str
    minimum: float | None
    maximum: float | None
    kind: Kind | None
    flag: str | None
    shown: str | None

    @property
    def takes(self) -> str:
        """Which values it takes, in words."""
        if self.kind:
            words = self.kind.takes
        elif self.choices:
            words = f"one of {', '.join(self.choices)}"
        elif self.type in (int, float):
            words = "a whole number" if self.type is int else "a number"
            if self.minimum is not None and self.maximum is not None:
                words += f" from {self.minimum:g} to {self.maximum:g}"
            elif self.minimum is not None:
                words += f" from {self.minimum:g} up"
            elif self.maximum is not None:
                words += f" up to {self.maximum:g}"
        else:
            words = "true or false" if self.type is bool else "text"
        return f"{words}, or none" if self.optional else words

    def parse(self, text: str) -> Any:
        """Return the value that ``text`` stands for; raise ValueError if it isn't one."""
        if self.optional and text.lower() == "none":
            return None
        if self.type is bool:
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if text.lower() not in words:
                raise ValueError(f"must be {self.takes}")
            return words[text.lower()]
        try:
            return self.kind.parse(text) if self.kind else self.type(text)
        except ValueError:
            raise ValueError(f"must be {self.takes}") from None

    def check(self, value: Any) -> None:
        """Raise ValueError if ``value`` is not allowed."""
        if value is None and self.optional:
            return
        accepted: Any = (int, float) if self.type is float else self.type
        if (
            not isinstance(value, accepted)
            or (isinstance(value, bool) and self.type not in (bool, object))
            or (self.choices and value not in self.choices)
            or (self.minimum is not None and not value >= self.minimum)
            or (self.maximum is not None and not value <= self.maximum)
            or (self.type is float and not math.isfinite(value))
            or (self.kind is not None and not self.kind.valid(value))
        ):
            raise ValueError(f"must be {self.takes}")


def options(cls: type) -> list[Option]:
    """Return the options that a dataclass declares, which are its fields made with `option`.

    Raises `PluginError` for any other field, unless its metadata says that it is ``positional``.
    """
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:  # for example, names that are imported for the type checker only
        raise PluginError(
            f"{cls.__name__}'s types can't be read: {first_line(error)}", "import what they name"
        ) from error
    found = []
    for field in dataclasses.fields(cls):
        if not field.init or field.metadata.get("positional"):
            continue
        if "help" not in field.metadata:
            raise PluginError(
                f"{cls.__name__}.{field.name} is not described", "declare it with zs2kit.option(...)"
            )
        plain, optional, choices = _plain(hints[field.name])
        if field.metadata["kind"] and plain is not str:
            plain = object
        elif plain not in (bool, int, float, str):
            raise PluginError(
                f"{cls.__name__}.{field.name} can't be {hints[field.name]}",
                "declare a bool, int, float, str or a Literal of strings, or one of these or None",
            )
        optional |= field.default is None
        found.append(Option(field.name, plain, optional, choices, field.default, **field.metadata))
    return found


def _plain(hint: Any) -> tuple[type, bool, tuple[str, ...]]:
    """Return the type, whether None is allowed, and the choices, from a field's annotation."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [each for each in typing.get_args(hint) if each is not type(None)]
        optional = len(rest) < len(typing.get_args(hint))
        hint = rest[0] if len(rest) == 1 else hint
    if typing.get_origin(hint) is Literal:
        return str, optional, typing.get_args(hint)
    return hint, optional, ()


def check(values: Any, prefix: str = "") -> None:
    """Raise `UsageError` if an option of a dataclass has a value that is not allowed.

    prefix: what comes before the option's name in the message.
    """
    for each in options(type(values)):
        value = getattr(values, each.name)
        try:
            each.check(value)
        except ValueError as error:
            meant = nearest(value, each.choices) if isinstance(value, str) else ""
            raise UsageError(f"`{prefix}{each.name}` {error}, not {value!r}", meant) from None


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """Ask whether the closest of ``known`` is what ``word`` was meant to be; empty if none is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"did you mean {found[0]}?" if found else ""


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """Say what to do about a ``word`` that is not one of ``known``."""
    known = list(known)
    return nearest(word, known) or f"choose from {', '.join(known)}"


def parsed(cls: type, texts: Mapping[str, str], owner: str | None = None, prefix: str = "") -> dict[str, Any]:
    """Return the values that ``texts`` stand for, by the names of a dataclass's options.

    owner: what messages call the thing that has these options; the class's name by default.
    prefix: what comes before an option's name in messages.

    Raises `UsageError` for an unknown option, and for a value that is not allowed.
    """
    known = {each.name: each for each in options(cls)}
    values = {}
    for name, text in texts.items():
        if name not in known:
            raise UsageError(f"{owner or cls.__name__} has no option '{name}'", suggestion(name, known))
        try:
            values[name] = known[name].parse(text)
        except ValueError as error:
            raise UsageError(f"`{prefix}{name}` {error}, not '{text}'") from None
    return values


def changed(values: T, changes: Mapping[str, Any]) -> T:
    """Return a dataclass's ``values`` with ``changes``; raise `UsageError` for an unknown option."""
    names = [each.name for each in options(type(values))]
    for name in changes:
        if name not in names:
            raise UsageError(f"there is no option '{name}'", suggestion(name, names))
    return dataclasses.replace(values, **changes)  # type: ignore[type-var]


def _parse_size(text: str) -> tuple[int, int]:
    """512x288, with the width first as is usual for video -> (height, width), as is usual for arrays."""
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if not match:
        raise ValueError
    return int(match[2]), int(match[1])


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(side, int) and 1 <= side <= LARGEST for side in value)
    )


def parse_time(text: str) -> Fraction:
    """Seconds or [HH:]MM:SS, with decimals -> seconds; raises ValueError for anything else."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):(?=[0-5]?\d\b))?(\d*\.?\d+)", text)
    if not match:
        raise ValueError
    hours, minutes, seconds = match.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def exact_rate(rate: Fraction | float) -> Fraction:
    """Return a frame rate as a fraction; rounded NTSC rates, such as 23.976, become exact."""
    value = Fraction(rate)
    ntsc = Fraction(round(value) * 1000, 1001)
    return ntsc if abs(value - ntsc) < Fraction(1, 1000) else value.limit_denominator(1001)


def _parse_cuts(text: str) -> Cuts:
    if text == "auto":
        return "auto"
    return () if text == "none" else tuple(float(parse_time(each)) for each in text.split(","))


def _are_cuts(value: Any) -> bool:
    if isinstance(value, str):
        return value == "auto"
    return isinstance(value, tuple | list) and all(
        isinstance(time, int | float | Fraction) and 0 <= time < math.inf for time in value
    )


def _are_prompts(value: Any) -> bool:
    if isinstance(value, Mapping):
        rows = value.items()
        return all(isinstance(k, int) and k >= 0 and isinstance(v, str) for k, v in rows) and 0 in value
    return isinstance(value, str)


FILE = Kind("the path of a file", "FILE", str, bool)
MODEL = Kind("the path or the name of a model", "NAME", str, bool)
SIZE = Kind(f"a size such as 512x288, at most {LARGEST}x{LARGEST}", "WxH", _parse_size, _is_size)
CUTS = Kind("'auto' or times in seconds, 0 or more", "TIMES", _parse_cuts, _are_cuts)
PROMPTS = Kind(
    "text, or several texts, each with the frame at which it starts, the first at 0",
    "TEXT",
    str,
    _are_prompts,
)


@dataclass(frozen=True)
class Settings:
    """How an edit or a generated clip is drawn.

    Where a value is None, `zs2kit.edit` and `zs2kit.generate` choose what suits the model and the kind of
    work. Raises `UsageError` for a value that is not allowed.
    """

    prompt: Prompts | None = option(
        None,
        "What the result should show. A script may give several prompts, {0: 'spring', 24: 'winter'}, each "
        "with the frame at which it starts; in between, one turns into the next.",
        kind=PROMPTS,
        shown="the model's own, if it has one",
    )
    negative_prompt: str = option("", "What the result should not show.")
    scheduler: Scheduler = option(
        None, "The sampler.", shown="ddim, or euler for a model trained by flow matching"
    )
    num_inference_steps: int = option(
        None, "Denoising steps.", minimum=1, flag="steps", shown="what suits the model, 20 for most"
    )
    guidance_scale: float = option(
        None,
        "How closely the result follows the prompt, as the model's own pipeline in diffusers counts it; 1 or "
        "less means no guidance, for Z-Image 0.",
        minimum=0,
        shown="what suits the model, 5 for most",
    )
    noise: Noise = option(
        None,
        "How the noise of the frames is correlated; dependency, orbit and mixed noise use the divergence.",
        shown="dependency for edits, orbit for clips made from text alone",
    )
    momentum: float = option(
        None,
        "How much a frame attends to the frames before it: 0 means not at all, 1 only to the first (mu in "
        "the paper).",
        minimum=0,
        maximum=1,
        shown="0.98, or 0.25 for a model with a transformer",
    )
    divergence: float = option(
        None,
        "How much the noise changes from frame to frame: 0 means not at all, 1.65 (the square root of e) "
        "completely (lambda in the paper).",
        minimum=0,
        maximum=math.sqrt(math.e),
        shown="0.01 for edits, 0.02 for clips made from text alone",
    )
    flow_momentum: float = option(
        None,
        "How much each frame takes over from the frame before it, moved as the source moves; 0 switches this "
        "off.",
        minimum=0,
        maximum=1,
        shown="0.95; 0 if no plugin follows the source, or if one has its own motion",
    )
    size: tuple[int, int] | None = option(
        None, "The size at which the model draws.", kind=SIZE, shown="the model's own"
    )
    chunk_size: int | None = option(
        None,
        "How many frames are drawn at once: more is faster but takes more memory. It doesn't change the "
        "picture.",
        minimum=1,
        shown="8, or as many as there is memory for",
    )
    cuts: Cuts = option(
        "auto",
        "Where the clip cuts to another shot; each shot is drawn on its own. auto finds the cuts; otherwise "
        "give their times, such as 12.5,1:02.5, or none.",
        kind=CUTS,
    )
    every: int = option(
        1,
        "Draw only every N-th frame, which takes less time, and fill in the others from the drawn frames "
        "around them, along the clip's motion. Where the motion isn't clear, a frame is drawn after all.",
        minimum=1,
        maximum=8,
    )
    seed: int = option(0, "The seed of the random numbers: another seed gives another result.", minimum=0)

    def __post_init__(self) -> None:
        if isinstance(self.prompt, Mapping):  # JSON's keys are text
            numbers = {int(key) if str(key).isdecimal() else key: it for key, it in self.prompt.items()}
            object.__setattr__(self, "prompt", numbers)
        check(self)

    @property
    def prompts(self) -> dict[int, str]:
        """The prompts, by the frame at which each starts; an empty one if no prompt was given."""
        if isinstance(self.prompt, Mapping):
            return dict(sorted(self.prompt.items()))
        return {0: self.prompt or ""}

    def described(self) -> dict[str, Any]:
        """Return the settings as a dictionary for JSON."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        if isinstance(self.prompt, Mapping):
            texts = {str(index): text for index, text in self.prompts.items()}
            values["prompt"] = texts if len(texts) > 1 else texts["0"]
        if not isinstance(self.cuts, str):
            values["cuts"] = [float(time) for time in self.cuts]
        return values

    @classmethod
    def restored(cls, described: Mapping[str, Any]) -> Settings:
        """Return the settings that were saved from `described` as JSON; other entries are ignored."""
        names = [each.name for each in dataclasses.fields(cls)]
        values = {name: described[name] for name in names if name in described}
        if isinstance(texts := values.get("prompt"), Mapping):
            values["prompt"] = {int(index): text for index, text in texts.items()}
        for name in ("size", "cuts"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


OF_A_SOURCE = ("flow_momentum", "cuts", "every")  # settings that have no use without a source

Function = typing.TypeVar("Function", bound=Callable[..., Any])


def takes_fields(cls: type) -> Callable[[Function], Function]:
    """Add the fields of ``cls``, which a function takes by name, to its signature, for its help."""

    def shown(function: Function) -> Function:
        signature = inspect.signature(function)
        kinds = inspect.Parameter
        parameters = [each for each in signature.parameters.values() if each.kind is not kinds.VAR_KEYWORD]
        names = [each.name for each in parameters]
        parameters += [
            kinds(each.name, kinds.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in dataclasses.fields(cls)
            if "help" in each.metadata and each.name not in names
        ]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return shown
