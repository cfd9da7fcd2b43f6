"""Whether a result has kept its source's times, geometry, colours and sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from zs2kit.clip import Clip, Color
from zs2kit.filters import Filter
from zs2kit.io.facts import Facts, Sound, examine

_TAGS = {
    "primaries": {
        1: "BT.709",
        2: "unknown",
        5: "BT.601 (625)",
        6: "BT.601 (525)",
        9: "BT.2020",
        12: "Display P3",
    },
    "trc": {
        1: "BT.709",
        2: "unknown",
        6: "BT.601",
        13: "sRGB",
        14: "BT.2020",
        15: "BT.2020",
        16: "PQ",
        18: "HLG",
    },
    "colorspace": {1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020"},
    "range": {1: "limited", 2: "full"},
}


class Check(NamedTuple):
    """One thing that a result must have in common with its source, and whether it does."""

    name: str
    ok: bool
    says: str  # what was found and, if that is wrong, what it should be


def verify(
    source: str | Path,
    result: str | Path,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    rate: Fraction | None = None,
    filters: Sequence[Filter] = (),
) -> list[Check]:
    """Compare the clip ``result`` with its ``source``; return all checks.

    start, end: those of the edit, in seconds.
    rate: that of the edit, in pictures per second, if the source is a sequence.
    filters: those that the result went through, in order; size, frames and times must be as they declare.

    Both clips are decoded, a frame at a time, but their pictures are not compared, since an edit changes
    them. So a result that is upside down is noticed only if its tags or its size say so.

    Raises `ClipError` for a clip that can't be read, `UsageError` for a span without frames.
    """
    before = examine(source, start=start, end=end, rate=rate)
    for each in filters:
        before.clip = each.declared(before.clip)
        before.times = each.times(before.times, before.end)
    after = examine(result, rate=before.clip.rate)
    if after.sounds is None:  # then the result starts with its first picture
        before.end -= before.times[0]
        before.times = [time - before.times[0] for time in before.times]
    tick = max(before.clip.time_base, after.clip.time_base)
    return [
        _same("frames that can't be decoded", 0, after.undecodable),
        _same("frames", len(before.times), len(after.times)),
        _near("times", before.times, after.times, tick),
        _duration(before, after),
        _same("size", _size(before.clip), _size(after.clip)),
        _same("orientation", "upright", "turned" if after.turned and not before.turned else "upright"),
        _same("aspect", _aspect(before.clip), _aspect(after.clip)),
        _colour(before, after),
        *_sounds(before, after),
    ]


def _same(name: str, before: object, after: object) -> Check:
    return Check(name, before == after, f"{after}" if before == after else f"{after} instead of {before}")


def _near(name: str, before: list[Fraction], after: list[Fraction], tolerance: Fraction) -> Check:
    """Check that the seconds in two lists differ by no more than ``tolerance``."""
    apart = [abs(a - b) for a, b in zip(before, after, strict=False)]
    most = max(apart, default=Fraction(0))
    where = f", at {float(before[apart.index(most)]):.3f} s" if most > tolerance else ""
    return Check(name, most <= tolerance, f"{float(most) * 1000:.3g} ms apart at most{where}")


def _duration(before: Facts, after: Facts) -> Check:
    ok = abs(before.end - after.end) <= 1 / before.clip.rate
    instead = "" if ok else f" instead of {float(before.end):.3f} s"
    return Check("duration", ok, f"{float(after.end):.3f} s{instead}")


def _size(clip: Clip) -> str:
    return f"{clip.width}x{clip.height}"


def _aspect(clip: Clip) -> str:
    shape = clip.width * clip.sample_aspect_ratio / clip.height
    return f"{shape.numerator}:{shape.denominator}"


def _colour(before: Facts, after: Facts) -> Check:
    """Check the colour tags, but matrix and range only if there is a choice, unlike in RGB and ProRes."""
    free = before.is_rgb or after.is_rgb or after.codec in ("prores", "jpg", "jpeg")
    tags = list(_TAGS)[: 2 if free else None]
    color = before.clip.color
    if before.clip.encoding.is_hdr and not after.clip.encoding.is_hdr:  # shown as SDR: BT.709
        color = Color(1, 1, 1, color.range)

    def names(color: Color) -> str:
        values = [(tag, getattr(color, tag)) for tag in tags]
        return ", ".join(_TAGS[tag].get(value, f"{tag} {value}") for tag, value in values)

    return _same("colour", names(color), names(after.clip.color))


def _sounds(before: Facts, after: Facts) -> Iterator[Check]:
    if after.sounds is None:
        yield Check("sound", True, "the result can't hold any")
        return
    for was, now in zip(before.sounds or [], after.sounds, strict=False):
        if was.digest.digest() == now.digest.digest():  # MP4 calls MP2 MP3
            now.codec = was.codec
    yield _same("sound", _streams(before.sounds or []), _streams(after.sounds))
    for number, (was, now) in enumerate(zip(before.sounds or [], after.sounds, strict=False), 1):
        name = f"sound {number}"
        if was.codec != now.codec:
            yield _near(f"{name} (not copied)", [was.end], [now.end], 1 / before.clip.rate)
            continue
        copied = was.digest.digest() == now.digest.digest()
        yield Check(f"{name} bytes", copied, "the source's" if copied else "not the source's")
        same_packets = len(was.times) == len(now.times)  # containers split PCM into packets in any way
        times, others = (each.times if same_packets else [*each.times[:1], each.end] for each in (was, now))
        yield _near(f"{name} times", times, others, max(was.tick, now.tick))


def _streams(sounds: list[Sound]) -> str:
    return ", ".join(each.codec for each in sounds) or "none"
