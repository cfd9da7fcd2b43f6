"""Output: where and how frames are written, what of them would be lost there, and what is there already.

What takes time to import is imported where it is needed: the command line reads the options off `Output`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zs2kit import __version__
from zs2kit.errors import ClipError, UsageError, notify
from zs2kit.settings import check as check_options
from zs2kit.settings import option

if TYPE_CHECKING:
    from zs2kit.clip import Clip, Color
    from zs2kit.io.sequence import Pattern

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # suffix -> muxer

_RGB, _LIMITED_RANGE, _FULL_RANGE = 0, 1, 2  # FFmpeg's numbers


@dataclass(frozen=True)
class Codec:
    """A way to store pictures."""

    encoder: str  # FFmpeg's name of it
    suffixes: tuple[str, ...]  # at the end of the names of files that hold it, the usual one first
    options: dict[str, str]  # the encoder's
    bits: float  # that a pixel takes, roughly, at the usual quality
    pix_fmt: Callable[[Clip], str]  # FFmpeg's name of the pixels that are written of a clip
    color: Callable[[Color], Color]  # the tags of what is written, for resolved ones of the clip
    quality: int | None = None  # the usual constant rate factor; None: it has but one quality
    segments: str = "nut"  # the muxer of segments: NUT has any clock, but not every codec
    reorder: int = 0  # a frame leaves the encoder at most this many frames before its turn


def halved(pix_fmt: str) -> tuple[bool, bool]:
    """Whether pixels of this kind have a sample of colour for every second column, and row, only."""
    from av.video.format import VideoFormat

    kind = VideoFormat(pix_fmt)
    if len(kind.components) < 3 and not kind.has_palette:  # grey
        return True, True
    return kind.chroma_width(8) < 8, kind.chroma_height(8) < 8


def _h264_pixels(clip: Clip) -> str:
    return "yuv444p" if clip.width % 2 or clip.height % 2 else "yuv420p"


def _prores_pixels(clip: Clip) -> str:
    return "yuv422p10le" if halved(clip.pix_fmt)[0] and not clip.width % 2 else "yuv444p10le"


def _rgb_color(color: Color) -> Color:
    return replace(color, colorspace=_RGB, range=_FULL_RANGE)


def _prores_color(color: Color) -> Color:
    # Limited range is the only one, and it knows these matrices.
    matrix = color.colorspace if color.colorspace in (1, 9) else 6
    return replace(color, colorspace=matrix, range=_LIMITED_RANGE)


CODECS = {
    "h264": Codec(
        "libx264",
        (".mp4", ".mov", ".mkv"),
        {"mbtree": "0"},  # with its macroblock tree, x264 gives one of several results at random
        bits=0.25,
        pix_fmt=_h264_pixels,
        color=lambda color: color,
        quality=18,
        reorder=2,  # b-pyramid
    ),
    # Lossless, in RGB. Every picture on its own, in slices that know when they are damaged.
    "ffv1": Codec("ffv1", (".mkv",), {"g": "1", "slicecrc": "1"}, 12.0, lambda clip: "bgr0", _rgb_color),
    # What editors cut with
    "prores": Codec("prores_ks", (".mov", ".mkv"), {}, 4.0, _prores_pixels, _prores_color, segments="mov"),
    # A sequence of pictures
    "png": Codec("png", (".%04d.png",), {}, 14.0, lambda clip: "rgb24", _rgb_color),
}


@dataclass(frozen=True)
class Output:
    """Where and how a clip is written.

    Raises `UsageError` for options that are not allowed, or that exclude one another.
    """

    path: Path = field(metadata={"positional": True})
    codec: Literal["h264", "ffv1", "prores", "png"] | None = option(
        None,
        "How the result is stored: h264, for players; ffv1, lossless, in .mkv; prores, for editors, in "
        ".mov or .mkv; png, pictures named as NAME.%04d.png.",
        shown="h264, or png for such a name",
    )
    quality: int | None = option(
        None,
        "The constant rate factor of h264: 0 lossless, 51 worst.",
        minimum=0,
        maximum=51,
        shown="18",
    )
    start_number: int | None = option(
        None,
        "The number of the result's first picture.",
        minimum=0,
        shown="as in the source if that is pictures, else 1",
    )
    overwrite: bool = option(False, "Replace files that exist.")
    resume: bool | None = option(
        None,
        "Go on where an interrupted command with the same result ended, or begin anew.",
        shown="ask",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        check_options(self)
        path, pattern = self.path, self.pattern
        suffix, suffixes = path.suffix.lower(), self.store.suffixes
        name = self.codec or ("png" if suffix == ".png" else "h264")
        if suffix == ".png" and not pattern:
            raise UsageError(
                f"can't write {path.name}: pictures are numbered", f"name them {path.stem}.%04d.png"
            )
        if suffix not in FORMATS and not pattern:
            raise UsageError(
                f"can't write {path.name}: its name must end in {', '.join(FORMATS)} or .%04d.png"
            )
        if (name != "png") if pattern else (suffix not in suffixes):
            raise UsageError(
                f"can't write {path.name}: {name} goes into {' or '.join(suffixes)}", "name it so"
            )
        if self.start_number is not None and not pattern:
            raise UsageError(
                f"`start_number` is for sequences of pictures (shot.%04d.png), not for {path.name}"
            )
        if self.quality is not None and self.store.quality is None:
            raise UsageError(f"`quality` is for h264; {name} has one quality", "leave it out")

    @property
    def store(self) -> Codec:
        """The codec."""
        return CODECS[self.codec or ("png" if self.path.suffix.lower() == ".png" else "h264")]

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of the names, if it is a sequence of pictures."""
        from zs2kit.io.sequence import Pattern

        return Pattern.of(self.path)

    def number(self, clip: Clip) -> int:
        """The number of the first picture."""
        from zs2kit.io.sequence import first_number

        return first_number(clip) if self.start_number is None else self.start_number

    def check(self, clip: Clip) -> None:
        """Raise `ClipError`, in one line, if `zs2kit.write` could not put this clip there."""
        from zs2kit import journal
        from zs2kit.io.sequence import check_pictures
        from zs2kit.io.streams import codec_of, copied, holds

        path, pattern = self.path, self.pattern
        if os.path.isdir(path):
            raise ClipError(f"{path} is a folder", "name a file in it")
        if not os.path.isdir(path.parent):
            raise ClipError(f"there is no folder {path.parent}", "create it first")
        journal.check(path, self.resume)
        if pattern:
            check_pictures(path, pattern, clip, self.number(clip), self.overwrite)
            _touch(path, pattern.path(self.number(clip)).name)
            return
        if os.path.lexists(path):
            source = clip.source if clip.source and os.path.exists(clip.source) else None
            if source and os.path.exists(path) and path.samefile(source):
                raise ClipError(f"{path} is the input", "write to another name")
            if not self.overwrite:
                raise ClipError(
                    f"{path} exists", "choose another name, or allow overwriting: `overwrite=True`"
                )
        _touch(path, path.name)
        with copied(clip) as (_, streams):
            for stream in streams:
                if stream.type == "audio" and not holds(path, stream):
                    is_mkv = path.suffix.lower() == ".mkv"
                    raise ClipError(
                        f"{path.suffix} can't hold the sound of {clip.source} ({codec_of(stream)})",
                        "convert it to AAC first" if is_mkv else "write to a .mkv file",
                    )

    def copied(self, clip: Clip) -> list[str]:
        """Return which streams of the clip's source are copied, such as: sound (aac)."""
        from zs2kit.io.streams import codec_of, copied, holds

        names = {"audio": "sound", "subtitle": "subtitles"}
        with copied(clip) as (_, streams):
            held = [] if self.pattern else [each for each in streams if holds(self.path, each)]
            return [f"{names[each.type]} ({codec_of(each)})" for each in held]

    def tell_losses(self, clip: Clip) -> None:
        """Send notices of what the clip's source has and the result can't hold."""
        from zs2kit.io.about import About, later
        from zs2kit.io.streams import codec_of, copied, holds

        path, source, pictures = self.path, clip.source, self.pattern is not None
        with copied(clip) as (_, streams):
            unheld = [codec_of(stream) for stream in streams if pictures or not holds(path, stream)]
        if pictures and unheld:
            notify(
                "streams-lost",
                f"pictures have no sound and no subtitles; {path} goes without those of {source}",
            )
        elif unheld:
            notify(
                "subtitles-lost",
                f"{path.suffix} can't hold the subtitles of {source} ({', '.join(unheld)})",
            )
        if (
            self.store.encoder == "libx264"
            and source is not None
            and halved(self.store.pix_fmt(clip)) > halved(clip.pix_fmt)
        ):
            notify(
                "colours-halved",
                f"{path} has one sample of colour for 2x2 pixels, as players expect of h264, and {source} "
                "has more",
                "`codec='ffv1'` or `codec='prores'` keeps them",
            )
        about = About.of(source)
        if not pictures and about.timecode and later(about.timecode, 0, clip.rate) is None:
            notify(
                "timecode-lost",
                f"the timecode {about.timecode} of {source} is none for {float(clip.rate):g} frames a "
                f"second; {path} goes without",
            )

    def described(self, clip: Clip) -> dict[str, Any]:
        """Return what the file depends on beside the frames, for JSON."""
        import av

        return {
            "zs2kit": __version__,
            "av": av.__version__,
            "codec": self.codec or ("png" if self.pattern else "h264"),
            "quality": self.store.quality if self.quality is None else self.quality,
            "width": clip.width,
            "height": clip.height,
            "rate": str(clip.rate),
            "time base": str(clip.time_base),
            "sample aspect ratio": str(clip.sample_aspect_ratio),
            "color": asdict(clip.color),
        }

    def left(self, clip: Clip) -> tuple[int, str]:
        """Return how many frames are saved of an interrupted edit, and which settings it had.

        These are told only so far as they are not this clip's.
        """
        from zs2kit import journal

        frames = journal.saved(self.path)
        return frames, journal.differing(self.path, clip, self.described(clip)) if frames else ""


def name_beside(clip: Path, word: str, codec: str | None = None) -> Path:
    """Return the path of a result beside its source: clip-pose.mp4, or shot-pose.%04d.png."""
    from zs2kit.io.sequence import Pattern

    pattern = Pattern.of(clip)
    if pattern is None or os.path.lexists(clip):
        stem, suffix = clip.stem, clip.suffix
    else:
        stem = pattern.before.rstrip("._- ")
        suffix = clip.name[len(stem) :]
    suffixes = CODECS[codec or ("png" if pattern else "h264")].suffixes
    if suffix.lower() not in suffixes and not (pattern and codec in (None, "png")):
        suffix = suffixes[0]
    return clip.with_name("-".join(filter(None, [stem, word])) + suffix)


def _touch(path: Path, name: str) -> None:
    """Raise `ClipError` if a file of this name can't be made beside ``path``."""
    from zs2kit import journal

    with journal.workfolder(path) as folder:
        try:
            (folder / name).touch()
        except OSError as error:  # too long a name
            raise journal.unwritable(path, error) from error
