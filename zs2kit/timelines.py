"""Timelines from editing programs, as OpenTimelineIO or CMX 3600 EDL: their clips, and the results of these.

This needs the extra ``timeline``, which is OpenTimelineIO and its adapter for EDLs.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zs2kit import io
from zs2kit.beside import write_beside
from zs2kit.clip import Clip
from zs2kit.errors import ClipError, UsageError, first_line, notify
from zs2kit.io.about import About
from zs2kit.io.decoding import frame_times
from zs2kit.io.seeking import FileFrames
from zs2kit.io.sequence import Pattern
from zs2kit.settings import exact_rate

SUFFIXES = (".otio", ".edl")

_TIMECODE = r"\d\d:\d\d:\d\d[:;]\d\d"
# An event's line: its number, reel, track and kind; where it is in its source, and in the timeline
_EVENT = re.compile(
    rf"^(\d+\s.*?)({_TIMECODE})\s+({_TIMECODE})\s+({_TIMECODE})\s+({_TIMECODE})[ \t]*$", re.MULTILINE
)
# Speeds and markers, whose timecodes have colons, also those that are drop-frame
_COMMENT = re.compile(rf"^(?:M2|\*\s*LOC:).*?{_TIMECODE}", re.MULTILINE)
_DROP = re.compile(r"^FCM:\s*DROP", re.MULTILINE | re.IGNORECASE)
_PROMPT = re.compile(r"\s*prompt:\s*(.+)", re.IGNORECASE | re.DOTALL)


def is_timeline(path: Path) -> bool:
    """Whether a file's name is that of a timeline: .otio or .edl."""
    return path.suffix.lower() in SUFFIXES


@dataclass(eq=False)
class Cut:
    """A clip of a timeline: which frames of which file it needs.

    start, end: as for `zs2kit.read`, including what transitions and speed effects need, and the handles.
    prompts: those of its markers, by the position of the frame at which each starts.
    """

    number: int  # in the timeline, starting at 1
    name: str
    media: Path
    rate: Fraction | None  # of a sequence of pictures
    start: Fraction | None
    end: Fraction | None
    prompts: dict[int, str]
    clip: Any  # OpenTimelineIO's
    early: Fraction  # seconds from the first of these frames to the first that the timeline shows

    def read(self, **how: Any) -> Clip:
        """Read these frames as a clip; ``how`` is passed to `zs2kit.read`."""
        return io.read(self.media, start=self.start, end=self.end, rate=self.rate, **how)

    def replace(self, result: Path) -> None:
        """Make the timeline show ``result``, which has the same frames at the same times.

        The clip's start and end, its speed and its transitions stay. Its markers move along.
        """
        opentime = _otio().opentime
        clip, before = self.clip, self.clip.trimmed_range()
        source = _url(clip.media_reference)
        clip.media_reference = _reference(result)
        known, rate = clip.media_reference.available_range, before.start_time.rate
        start = _time(_seconds(known.start_time) + self.early, rate)
        clip.source_range = opentime.TimeRange(start, before.duration)
        for marker in clip.markers:
            marked = marker.marked_range
            moved = marked.start_time + (start - before.start_time)
            marker.marked_range = opentime.TimeRange(moved, marked.duration)
        clip.metadata["zs2kit"] = {"source": source}
        clip.metadata.get("cmx_3600", {}).pop("reel", None)  # it is the source's


class Timeline:
    """A timeline whose ``cuts`` can be edited and replaced. `read` and `assembled` make one."""

    def __init__(self, timeline: Any, cuts: Sequence[Cut], *, drops: bool = True) -> None:
        self.timeline = timeline  # OpenTimelineIO's
        self.cuts = list(cuts)
        self._drops = drops  # whether timecodes of 29.97 and 59.94 in an EDL are drop-frame

    def check(self, path: str | Path) -> None:
        """Raise `UsageError` if a file of this kind can't hold the timeline."""
        self._text(Path(path))

    def write(self, path: str | Path) -> None:
        """Write the timeline as .otio or .edl; raise `ClipError` or `UsageError` if that can't be done."""
        path = Path(path)
        write_beside(path, self._text(path).encode())

    def _text(self, path: Path) -> str:
        otio = _otio()
        if path.suffix.lower() == ".otio":
            text: str = otio.adapters.write_to_string(self.timeline, "otio_json")
            return text
        try:
            return _edl(self.timeline, self._drops)
        except (ValueError, otio.exceptions.OTIOError) as error:
            raise UsageError(
                f"{path}: an EDL can't hold this timeline ({first_line(error)})", "name it .otio"
            ) from error


def read(path: str | Path, *, rate: Fraction | float | None = None, handles: int = 0) -> Timeline:
    """Read a timeline, and find the media of its clips.

    rate: frames per second of an EDL, which doesn't contain its rate.
    handles: how many extra frames each cut gets at either end, as far as its media has them.

    Media is where the timeline says, or else next to the timeline, under the same name. If an EDL names only
    clips or reels, media is looked for next to it, under that name. The prompts of a cut are its markers
    whose name or comment is "prompt: TEXT": the first applies from the cut's first frame on, each of the
    others from its own position. Notices name the clips that are left as they are.

    Raises `UsageError` if the extra ``timeline`` is not installed, or an EDL comes without ``rate``;
    `ClipError` if the file can't be read, or media is missing, or is too short.
    """
    path = Path(path)
    otio, drops = _otio(), True
    try:
        if path.suffix.lower() == ".edl":
            text = path.read_text(encoding="utf-8", errors="replace")
            drops = bool(_DROP.search(text))
            timeline = _read_edl(path, text, rate, drops)
        elif rate is not None:
            raise UsageError(f"{path} says its frame rate itself", "leave out `rate`")
        else:
            timeline = otio.adapters.read_from_file(str(path))
    except FileNotFoundError:
        raise ClipError(f"no such file: {path}") from None
    except (otio.exceptions.OTIOError, OSError, ValueError, AttributeError) as error:
        raise ClipError(f"{path} is not a timeline, or is damaged ({first_line(error)})") from error
    if not isinstance(timeline, otio.schema.Timeline):
        raise ClipError(f"{path} holds no timeline", "export a single timeline")
    return Timeline(timeline, _cuts(timeline, path, handles), drops=drops)


def assembled(results: Mapping[Path, Mapping[int, str]]) -> Timeline:
    """Return a timeline that shows ``results`` one after another; their prompts become markers."""
    otio = _otio()
    timeline = otio.schema.Timeline(name="zs2kit")
    track = otio.schema.Track(kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    for result, prompts in results.items():
        reference = _reference(result)
        known = reference.available_range
        clip = otio.schema.Clip(result.stem.partition("%")[0].rstrip("._-"), reference, known)
        for frame, prompt in prompts.items():
            start = known.start_time + otio.opentime.RationalTime(frame, known.start_time.rate)
            one = otio.opentime.RationalTime(1, start.rate)
            clip.markers.append(otio.schema.Marker(f"prompt: {prompt}", otio.opentime.TimeRange(start, one)))
        track.append(clip)
    return Timeline(timeline, ())


def _otio() -> Any:
    try:
        import opentimelineio
        import otio_cmx3600_adapter  # noqa: F401
    except ImportError:
        raise UsageError("timelines need OpenTimelineIO", "pip install 'zs2kit[timeline]'") from None
    return opentimelineio


def _cuts(timeline: Any, path: Path, handles: int) -> list[Cut]:
    """Return the clips that can be edited; raise `ClipError` if media is missing or too short."""
    cuts: list[Cut] = []
    left: list[str] = []
    wrong: list[str] = []
    lacking: list[str] = []
    media = cache(_Media)
    number = 0
    for track in timeline.video_tracks():
        for clip in track.find_clips():
            number += 1
            name = clip.name or str(number)
            reference = clip.media_reference
            kind = type(reference).__name__
            if not (clip.enabled and track.enabled):
                left.append(f"{name} (disabled)")
            elif kind == "GeneratorReference":
                left.append(f"{name} ({reference.generator_kind})")
            else:
                place, rate = _place(clip, path.parent)
                if place is None:
                    lacking.append(_file(_url(reference)) or f"{name} (no file is named)")
                    continue
                try:
                    cuts.append(_cut(number, name, clip, media(place, rate), handles))
                except ClipError as error:
                    wrong.append(str(error))
    if lacking:
        raise ClipError(
            f"{path} needs media that is missing: {', '.join(dict.fromkeys(lacking))}",
            f"put it there, or into {path.parent}",
        )
    if wrong:
        raise ClipError("; ".join(wrong))
    if left:
        notify("clips-left", f"clips of {path} that are left as they are: {', '.join(left)}")
    if not cuts:
        raise ClipError(f"{path} has no clip that can be edited")
    return cuts


class _Media:
    """A file of a timeline: when its frames are shown, and the time of its first one by its timecode."""

    def __init__(self, path: Path, rate: Fraction | None) -> None:
        self.path, self.rate = path, rate
        clip = io.read(path, rate=rate)
        ticks = frame_times(clip) if isinstance(clip.frames, FileFrames) else None
        spacing = 1 / clip.rate
        if ticks is None:
            count = clip.frame_count or sum(1 for _ in clip)
            self.times = [number * spacing for number in range(count)]
        else:
            self.times = [(pts - ticks[0]) * clip.time_base for pts in ticks]
        self.offset = 0 if ticks is None else ticks[0] * clip.time_base - clip.origin
        self.spacing = spacing
        self.length = self.times[-1] + spacing
        self.timecode = _timecode(path, clip.rate)

    def nearest(self, seconds: Fraction) -> int:
        """Return the position of the first frame that is at most half a frame early."""
        return bisect_left(self.times, seconds - self.spacing / 2)


def _cut(number: int, name: str, clip: Any, media: _Media, handles: int) -> Cut:
    try:
        shown, needed = clip.trimmed_range(), clip.visible_range()
    except _otio().exceptions.CannotComputeAvailableRangeError:
        raise ClipError(f"{name} doesn't say which part of {media.path} it shows") from None
    first, length = _seconds(needed.start_time), _seconds(needed.duration)
    speed = _speed(clip, name)
    known = clip.media_reference.available_range
    # A file's first frame is counted as the timeline says, else by the file's timecode, else as 0.
    origins = [_seconds(known.start_time)] if known else [media.timecode, Fraction(0)]
    origin = next((each for each in origins if -media.spacing < first - each < media.length), origins[0])
    from_first = first - origin
    begin = from_first + min(Fraction(0), length * speed)
    end = from_first + (max(length, length * speed) if speed else media.spacing)
    if from_first >= media.length or from_first + length <= 0:
        raise ClipError(
            f"{name} is {float(from_first):.2f} to {float(from_first + length):.2f} s of {media.path}, which "
            f"lasts {float(media.length):.2f} s"
        )
    if speed == 1 and (begin < -media.spacing or end > media.length + media.spacing):
        notify("cut-short", f"{media.path} doesn't have all frames of {name}; those that it has are edited")
    count = len(media.times)
    at = min(media.nearest(begin), count - 1)  # what lasts less than a frame still shows one
    last = min(count, max(at + 1, media.nearest(end)) + handles)
    place = max(0, at - handles)
    stop = media.times[last] + media.offset if last < count else None
    start = media.times[place] + media.offset if place else None
    prompts: dict[int, str] = {}
    for marker in sorted(clip.markers, key=lambda each: each.marked_range.start_time):
        if found := _PROMPT.match(marker.name or "") or _PROMPT.match(marker.comment or ""):
            frame = media.nearest(_seconds(marker.marked_range.start_time) - origin) - place
            if not prompts or 0 < frame < last - place:
                prompts[frame if prompts else 0] = found[1].strip()
    early = from_first - media.times[place] + _seconds(shown.start_time) - first
    return Cut(number, name, media.path, media.rate, start, stop, prompts, clip, early)


def _speed(clip: Any, name: str) -> Fraction:
    """Return a clip's speed: 1 is normal, 0 a still, and negative means backwards."""
    schema, speed = _otio().schema, Fraction(1)
    for effect in clip.effects:
        if isinstance(effect, schema.LinearTimeWarp):
            speed *= Fraction(effect.time_scalar).limit_denominator(1_000_000)
        elif isinstance(effect, schema.TimeEffect):
            notify(
                "speed-effect",
                f"the speed effect of {name} is kept, but which frames it needs isn't known; those of its "
                "range are edited",
                "`handles` adds more",
            )
    return speed


def _read_edl(path: Path, text: str, rate: Fraction | float | None, drops: bool) -> Any:
    """Read an EDL by the adapter, which takes timecode for drop-frame by its semicolons, and only there."""
    otio = _otio()
    if rate is None:
        raise UsageError(f"{path} doesn't say its frame rate", "give it: `rate`")
    text = _COMMENT.sub(lambda line: line[0].replace(";", ":"), text)
    if drops:
        text = _EVENT.sub(lambda event: f"{event[1]}{_dropping(' '.join(event.groups()[1:]))}", text)
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=float(exact_rate(rate)))
    if drops:  # it reads those of markers as if no numbers were left out
        for clip in timeline.find_clips():
            for marker in clip.markers:
                time = marker.marked_range.start_time
                code = otio.opentime.to_timecode(time, time.rate, False)
                start = otio.opentime.from_timecode(_dropping(code), time.rate)
                marker.marked_range = otio.opentime.TimeRange(start, marker.marked_range.duration)
    for clip in timeline.find_clips():
        # The event of a transition names two files, of which the adapter takes the other.
        for comment in clip.metadata.get("cmx_3600", {}).get("comments", ()):
            if found := re.match(r"TO (?:CLIP|FILE):\s*(.+)", comment):
                clip.media_reference = otio.schema.ExternalReference(found[1].strip())
        # It names files, not URLs, so that a # or a % is part of a name.
        reference = clip.media_reference
        if isinstance(reference, otio.schema.ExternalReference) and "://" not in reference.target_url:
            reference.target_url = re.sub("[%#?;]", lambda sign: quote(sign[0]), reference.target_url)
    return timeline


def _dropping(timecodes: str) -> str:
    """Write timecodes as drop-frame, with a semicolon before the frames."""
    return re.sub(r"(\d\d:\d\d:\d\d):(\d\d)", r"\1;\2", timecodes)


def _edl(timeline: Any, drops: bool) -> str:
    """Return a timeline as an EDL; raise ValueError for what an EDL can't hold.

    The adapter's writer gets speed effects wrong, and doesn't know timecode that isn't drop-frame at 29.97.
    """
    schema, opentime = _otio().schema, _otio().opentime
    tracks = [each for each in timeline.video_tracks() if each.enabled]
    if len(tracks) != 1:
        raise ValueError(f"{len(tracks)} video tracks")
    (track,) = tracks
    if timeline.audio_tracks():
        notify("tracks-lost", "the EDL has pictures only, without the timeline's sound")
    rate = track.trimmed_range().duration.rate
    beginning = timeline.global_start_time or opentime.RationalTime(0, rate)
    drops = drops and exact_rate(rate).denominator > 1 and round(rate) % 30 == 0

    def code(seconds: Fraction) -> str:
        frames = opentime.RationalTime(round(seconds * exact_rate(rate)), rate)
        return str(opentime.to_timecode(frames, rate, drops))

    lines = [f"TITLE: {timeline.name}", f"FCM: {'' if drops else 'NON-'}DROP FRAME", ""]
    number, before, ended = 0, None, ("BL", "", Fraction(0))  # what was shown last: reel, comments, its end
    for place, child in enumerate(track):
        if isinstance(child, schema.Transition):
            before = child
            continue
        if not isinstance(child, schema.Gap | schema.Clip):
            raise ValueError(f"a {type(child).__name__} in a track")
        event = None if isinstance(child, schema.Gap) or not child.enabled else child
        for effect in child.effects:
            if isinstance(effect, schema.TimeEffect) and not isinstance(effect, schema.LinearTimeWarp):
                raise ValueError(f"the speed effect of {child.name}")
        after = track[place + 1] if place + 1 < len(track) else None
        early = _seconds(before.in_offset) if before else Fraction(0)
        cut = _seconds(after.in_offset) if isinstance(after, schema.Transition) else Fraction(0)
        shown = track.trimmed_range_of_child(child)
        begin = _seconds(beginning) + _seconds(shown.start_time) - early
        length = _seconds(shown.duration) + early - cut
        speed = _speed(child, child.name) if event else Fraction(1)
        first = _seconds(child.trimmed_range().start_time) - early * speed if event else Fraction(0)
        last = first + (length * abs(speed) if speed else 1 / exact_rate(rate))
        reel = _reel(event)
        ways = "C       "
        if event or before:
            number += 1
            if before:
                ways = f"{_wipe(before):<4} {round(_seconds(before.duration()) * exact_rate(rate)):03}"
                old, at = code(ended[2]), code(begin)
                lines.append(f"{number:03}  {ended[0]:<8} V     C        {old} {old} {at} {at}")
            times = " ".join(map(code, (first, last, begin, begin + length)))
            lines.append(f"{number:03}  {reel:<8} V     {ways} {times}")
            if speed != 1:
                percent = float(speed * exact_rate(rate))
                lines.append(f"M2   {reel:<8} {percent:05.1f}  {code(first).replace(';', ':')}")
            lines += [] if speed else ["* FREEZE FRAME"]
            if before:
                lines += [f"* FROM {each}" for each in ended[1].splitlines()]
            named = _named(event)
            lines += [f"* {'TO' if before else 'FROM'} {each}" for each in named.splitlines()]
            for marker in event.markers if event else ():
                at = code(_seconds(marker.marked_range.start_time)).replace(";", ":")
                lines.append(f"* LOC: {at} {marker.color or 'RED':7} {marker.comment or marker.name}")
            ended = (reel, named, last)
        else:
            ended = ("BL", "", Fraction(0))
        before = None
    if before:
        raise ValueError("a transition at its end")
    return "\n".join([*lines, ""])


def _reel(clip: Any) -> str:
    """Return an EDL's name for the source of a clip, of at most eight characters; None is black."""
    if clip is None:
        return "BL"
    reference = clip.media_reference
    if kind := getattr(reference, "generator_kind", None):
        return {"black": "BL", "SMPTEBars": "BARS"}.get(kind, "AX")
    reel: str = clip.metadata.get("cmx_3600", {}).get("reel", "")
    return (reel or re.sub(r"[^A-Za-z0-9]", "", Path(_url(reference) or clip.name).stem) or "AX")[:8]


def _named(clip: Any) -> str:
    """Return an EDL's comments about a clip, which give its name and its file."""
    if clip is None:
        return ""
    file = _file(_url(clip.media_reference))
    return f"CLIP NAME:  {clip.name}" + (f"\nCLIP: {file}" if file else "")


def _wipe(transition: Any) -> str:
    """Return an EDL's letter for a transition."""
    wipe: str = transition.metadata.get("cmx_3600", {}).get("transition", "")
    if transition.transition_type == _otio().schema.TransitionTypes.SMPTE_Dissolve:
        return "D"
    if transition.transition_type == "SMPTE_Wipe":
        return wipe or "W001"
    raise ValueError(f"a transition called {transition.transition_type}")


def _url(reference: Any) -> str:
    """Return the file that a reference names; empty if it names none."""
    if base := getattr(reference, "target_url_base", ""):
        return f"{base}{reference.name_prefix}...{reference.name_suffix}"
    return getattr(reference, "target_url", None) or ""


def _file(url: str | None) -> str:
    """Return the path that a reference names; empty if it names none."""
    try:
        twice = (url or "").replace("%25", "%2525")  # this decodes it twice
        return str(_otio().url_utils.filepath_from_url(twice))
    except IndexError:  # how it says that there is no path
        return ""


def _place(clip: Any, folder: Path) -> tuple[Path | None, Fraction | None]:
    """Return where the media of a clip is, or None; and the rate of a sequence of pictures."""
    otio, reference, rate = _otio(), clip.media_reference, None
    if isinstance(reference, otio.schema.ImageSequenceReference):
        rate = exact_rate(reference.rate)
        base = Path(_file(reference.target_url_base))
        first, digits = reference.start_frame, reference.frame_zero_padding
        last = first + reference.number_of_images_in_sequence() - 1
        number = f"{first}-{last}{'#' * digits}" if digits > 1 else "%d"
        path = base / f"{reference.name_prefix}{number}{reference.name_suffix}"
    elif isinstance(reference, otio.schema.ExternalReference) and (file := _file(reference.target_url)):
        path = Path(file)
    else:  # an EDL may tell no more than a clip's name, or its reel
        reel = clip.metadata.get("cmx_3600", {}).get("reel", "")
        names = {name.strip().lower() for name in (clip.name, reel)} - {""}
        found = [each for each in sorted(folder.iterdir()) if {each.name.lower(), each.stem.lower()} & names]
        return next((each for each in found if each.suffix and not is_timeline(each)), None), None
    for place in (folder / path, folder / path.name):  # an absolute path stays as it is
        pattern = None if os.path.isfile(place) else Pattern.of(place)
        if os.path.isfile(place) or (pattern and pattern.numbers()):
            if place != folder / path:
                notify("media-moved", f"{path} isn't there, so {place} is used")
            return place, rate
    return None, rate


def _reference(result: Path) -> Any:
    """Return the reference to a result, by its absolute path, since few editors read others."""
    otio = _otio()
    opentime = otio.opentime
    pattern = Pattern.of(result)
    numbers = pattern.numbers() if pattern else []
    clip = io.read(result) if not pattern else None
    if clip is None:
        count, rate, start = len(numbers), Fraction(25), Fraction(0)
    else:
        count = clip.frame_count or sum(1 for _ in clip)
        rate, start = clip.rate, _timecode(result, clip.rate)
    known = opentime.TimeRange(_time(start, float(rate)), opentime.RationalTime(count, float(rate)))
    url = (result.parent if pattern else result).absolute().as_uri()
    if pattern is None:
        return otio.schema.ExternalReference(url, known)
    return otio.schema.ImageSequenceReference(
        f"{url}/",
        pattern.before,
        pattern.after,
        start_frame=numbers[0],
        frame_step=1,
        rate=float(rate),
        frame_zero_padding=pattern.digits,
        available_range=known,
    )


def _timecode(path: Path, rate: Fraction) -> Fraction:
    """Return the timecode of a file's first frame, in seconds; 0 if it has none."""
    opentime = _otio().opentime
    code = About.of(path).timecode if path.is_file() else None
    try:
        return _seconds(opentime.from_timecode(code.replace(".", ";"), float(rate))) if code else Fraction(0)
    except ValueError:  # a rate that timecodes can't have
        return Fraction(0)


def _seconds(time: Any) -> Fraction:
    return Fraction(time.value).limit_denominator(1000) / exact_rate(time.rate)


def _time(seconds: Fraction, rate: float) -> Any:
    """Return a time of OpenTimelineIO, whole frames if it is within a thousandth of one."""
    frames = seconds * exact_rate(rate)
    whole = round(frames)
    return _otio().opentime.RationalTime(
        whole if abs(frames - whole) < Fraction(1, 1000) else float(frames), rate
    )
