"""Plain English for the puppets world: captions to train on, triples held out, prompts to judge by."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from itertools import product

import numpy as np

from .figures import COLOURS, KINDS
from .places import PLACES

Triple = tuple[str, str, str]  # kind, colour, place

# the usual word first; it is taken half of the time
KIND_WORDS = {
    "robot": ("robot", "android", "mechanical man"),
    "knight": ("knight", "armoured knight", "knight in armour"),
    "astronaut": ("astronaut", "spaceman", "cosmonaut"),
    "clown": ("clown", "circus clown", "funny clown"),
    "wizard": ("wizard", "sorcerer", "mage", "magician"),
    "pirate": ("pirate", "buccaneer", "pirate captain"),
}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green", "emerald"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
}
WHERE = {
    "grass": ("on the grass", "on grass", "in a meadow", "in the meadow", "on a lawn", "in a grassy field"),
    "beach": ("on the beach", "on a beach", "at the beach", "by the sea", "at the seaside", "on the shore",
              "along the beach"),
    "snow": ("in the snow", "on the snow", "in a snowy field", "in a winter landscape", "in winter"),
    "desert": ("in the desert", "in a desert", "among the dunes", "in the sand dunes",
               "in the middle of the desert", "through the desert"),
    "city": ("in the city at night", "in a city at night", "in the city", "in town by night",
             "on a city street at night", "downtown at night"),
    "space": ("in space", "in outer space", "on the moon", "out in space"),
}  # fmt: skip
PLACE_WORDS = {
    "grass": ("grass", "meadow", "lawn", "a grassy field"),
    "beach": ("beach", "the seaside", "shore", "a beach", "the beach"),
    "snow": ("snow", "winter", "a snowy field"),
    "desert": ("desert", "sand dunes", "a desert", "the desert"),
    "city": ("city at night", "a city at night", "the city", "a town by night"),
    "space": ("space", "outer space", "the moon"),
}
ANYBODY = ("figure", "character", "puppet")
_VERBS = ("standing", "dancing", "waving", "walking", "jumping", "posing")
_PRESENT = ("stands", "dances", "waves", "walks", "jumps", "poses")
_PICTURES = ("a picture of", "a photo of", "a drawing of", "an image of")
_OPENINGS = ("show me", "this is", "here is", "I want", "please draw", "there is", "we see", "it is")


def caption(kind: str, colour: str, place: str, rng: np.random.Generator, *, drop: float = 0.2) -> str:
    """A caption in words and order drawn at random; each of the three is left out with probability `drop`."""
    named_kind, named_colour, named_place = (bool(named) for named in rng.random(3) >= drop)
    noun = usual(rng, KIND_WORDS[kind]) if named_kind else one_of(rng, ANYBODY)
    hue = usual(rng, COLOUR_WORDS[colour], 0.75) if named_colour else ""
    text = _sentence(rng, noun, hue, place if named_place else "", open_kind=not named_kind)
    return text[0].upper() + text[1:] + "." if rng.random() < 0.1 else text


def _sentence(rng: np.random.Generator, noun: str, hue: str, place: str, *, open_kind: bool) -> str:
    style = float(rng.random())
    if style < 0.1:  # a bare list of words
        words = [noun, *([hue] if hue else []), *([usual(rng, PLACE_WORDS[place])] if place else [])]
        return ", ".join(words[i] for i in rng.permutation(len(words)))
    if open_kind and not hue and place and rng.random() < 0.35:
        return one_of(rng, PLACE_WORDS[place])
    # "show me red robot" is no English, "red robot on the beach" will do
    subject = _subject(rng, noun, hue, open_kind=open_kind, bare=style >= 0.36)
    if place:
        return _placed(rng, style, subject, place)
    if rng.random() < 0.25:
        subject = f"{subject} {one_of(rng, _VERBS)}"
    return f"{_opening(rng)} {subject}" if 0.2 <= style < 0.36 else subject


def _placed(rng: np.random.Generator, style: float, subject: str, place: str) -> str:
    where = usual(rng, WHERE[place])
    if style < 0.20:
        return f"{where} there is {subject}"
    if style < 0.24:
        return f"{where} {one_of(rng, _PRESENT)} {subject}"
    if style < 0.36:
        return f"{_opening(rng)} {subject} {where}"
    if style < 0.46:
        return f"{where}, {subject}"
    if style < 0.52:
        return f"{usual(rng, PLACE_WORDS[place])}: {subject}"
    if style < 0.6:
        return f"{subject}, {usual(rng, PLACE_WORDS[place])}"
    if style < 0.63:
        return f"{one_of(rng, PLACE_WORDS[place])} {one_of(rng, ('with', 'and'))} {subject}"
    if style < 0.66:
        return f"{subject} is {where}"
    doing = float(rng.random())
    if doing < 0.2:
        subject = f"{subject} {one_of(rng, _VERBS)}"
    elif doing < 0.3:
        subject = f"{subject} is {one_of(rng, _VERBS)}"
    elif doing < 0.4:
        subject = f"{subject} {one_of(rng, _PRESENT)}"
    return f"{subject} {where}"


def _opening(rng: np.random.Generator) -> str:
    return one_of(rng, _PICTURES if rng.random() < 0.5 else _OPENINGS)


def _subject(rng: np.random.Generator, noun: str, hue: str, *, open_kind: bool, bare: bool) -> str:
    style = float(rng.random())
    if open_kind and style < 0.3:
        return f"someone in {hue}" if hue else "someone"
    if not hue:
        if style < 0.1 and bare:
            return noun
        return f"the {noun}" if style < 0.2 else with_article(noun)
    if style < 0.5:
        return with_article(f"{hue} {noun}")
    if style < 0.58:
        return f"the {hue} {noun}"
    if style < 0.7 and bare:
        return f"{hue} {noun}"
    joint = "in"
    if "armour" in noun or style > 0.85:  # not "in armour in red"
        joint = one_of(rng, ("dressed in", "wearing", "all in", "who wears"))
    return f"{with_article(noun)} {joint} {hue}"


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def one_of(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """Any of the words."""
    return words[int(rng.integers(len(words)))]


def usual(rng: np.random.Generator, words: tuple[str, ...], share: float = 0.5) -> str:
    """The first of the words with probability `share`, else any of them."""
    return words[0] if rng.random() < share else one_of(rng, words)


def _choose_held_out(count: int) -> frozenset[Triple]:
    """Triples in the order of a hash, so that no library's dice decide.

    No two share kind and colour or colour and place, and at most two kind and place: every pair is still
    met in training.
    """
    seen: Counter[tuple[str, str]] = Counter()
    chosen: list[Triple] = []
    triples = product(KINDS, COLOURS, PLACES)
    for kind, colour, place in sorted(triples, key=lambda t: hashlib.sha256(" ".join(t).encode()).digest()):
        pairs = ((kind, colour), (colour, place), (kind, place))
        if len(chosen) < count and not seen[pairs[0]] and not seen[pairs[1]] and seen[pairs[2]] < 2:
            seen.update(pairs)
            chosen.append((kind, colour, place))
    return frozenset(chosen)


HELD_OUT = _choose_held_out(29)
"""A tenth of all triples of kind, colour and place: never trained on, to see whether words are understood."""


def is_held_out(kind: str, colour: str, place: str) -> bool:
    """Whether training must not see this triple."""
    return (kind, colour, place) in HELD_OUT


@dataclass(frozen=True)
class Prompt:
    """A line of prompts.jsonl: what is asked for, and what must then be seen."""

    prompt: str
    kind: str
    colour: str
    place: str
    source: str
    """"template" (made by template_prompts) or "hand" (written by a person, not by these templates)."""
    held_out: bool


def load_prompts() -> list[Prompt]:
    """The 250 prompts that models are judged by, fixed before the first was trained."""
    text = resources.files(__package__).joinpath("prompts.jsonl").read_text(encoding="utf-8")
    return [Prompt(**json.loads(line)) for line in text.splitlines()]


def template_prompts(count: int = 200, held_out: int = 40, seed: int = 2024) -> list[Prompt]:
    """Different captions that name all three, `held_out` of them of held-out triples, in mixed order."""
    rng = np.random.default_rng(seed)
    trained = [triple for triple in product(KINDS, COLOURS, PLACES) if triple not in HELD_OUT]
    kept = sorted(HELD_OUT)
    picks = [kept[i % len(kept)] for i in range(held_out)]
    picks += [trained[i] for i in rng.permutation(len(trained))[: count - held_out]]
    prompts: dict[str, Prompt] = {}
    for i in rng.permutation(count):
        kind, colour, place = picks[i]
        text = caption(kind, colour, place, rng, drop=0.0)
        while text in prompts:
            text = caption(kind, colour, place, rng, drop=0.0)
        prompts[text] = Prompt(text, kind, colour, place, "template", is_held_out(kind, colour, place))
    return list(prompts.values())
