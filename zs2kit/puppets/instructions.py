"""Instructions in plain English that change a scene of the puppets world, and edits to judge models by.

In the templates {it} and {him} are who is there ("the robot", "it", but "he" and "him"), {kind}, {colour},
{where} ("on the beach") and {scenery} ("the beach") are what is wanted, {old_colour} and so on what was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

import numpy as np

from .captions import ANYBODY, COLOUR_WORDS, KIND_WORDS, WHERE, Triple, one_of, usual, with_article
from .networks import GROUPS
from .pictures import scene

FIRST_SCENE = 20_000  # of the edits to judge by; the scenes before it are for other measures
SCENERY = {
    "grass": ("a meadow", "grass", "the meadow", "a lawn", "a grassy field", "green fields"),
    "beach": ("the beach", "a beach", "the seaside", "the shore", "the sea"),
    "snow": ("snow", "a snowy field", "a winter landscape", "the snow"),
    "desert": ("the desert", "a desert", "sand dunes", "the dunes"),
    "city": ("the city at night", "a city at night", "the city", "a town by night", "a city street at night"),
    "space": ("space", "outer space", "the moon"),
}
# orders can be joined by "and", wishes can't
ORDERS = {
    "kind": (
        "turn {him} into {kind}", "make {him} {kind}", "change {him} into {kind}", "change {him} to {kind}",
        "replace {him} with {kind}", "replace {him} by {kind}", "transform {him} into {kind}",
        "swap {him} for {kind}", "let {him} become {kind}", "let {him} be {kind}",
        "dress {him} up as {kind}", "dress {him} like {kind}", "make this {kind}", "show {kind} instead",
        "put {kind} there", "put {kind} in place of {him}", "disguise {him} as {kind}",
    ),
    "colour": (
        "paint {him} {colour}", "make {him} {colour}", "turn {him} {colour}", "colour {him} {colour}",
        "color {him} {colour}", "recolour {him} {colour}", "dye {him} {colour}",
        "give {him} {colour} clothes", "give {him} a {colour} suit", "dress {him} in {colour}",
        "put {him} in {colour}", "let {him} wear {colour}", "change the colour to {colour}",
        "change the colour of {him} to {colour}", "change the colour from {old_colour} to {colour}",
        "change {old_colour} to {colour}", "make the clothes {colour}",
        "make the {old_colour} parts {colour}", "use {colour} for {him}", "make {him} look {colour}",
        "replace {old_colour} with {colour}",
    ),
    "place": (
        "put {him} {where}", "move {him} {where}", "place {him} {where}", "set {him} {where}",
        "show {him} {where}", "let {him} stand {where}", "let {him} be {where}", "make it {where}",
        "set the scene {where}", "let it happen {where}", "move {him} to {scenery}",
        "take {him} to {scenery}", "send {him} to {scenery}", "bring {him} to {scenery}",
        "change the background to {scenery}", "make the background {scenery}",
        "turn the background into {scenery}", "replace the background with {scenery}",
        "replace {old_scenery} with {scenery}", "turn {old_scenery} into {scenery}",
        "change {old_scenery} to {scenery}", "swap the place for {scenery}",
        "change the place to {scenery}", "use {scenery} as the background", "put {scenery} behind {him}",
    ),
}  # fmt: skip
WISHES = {
    "kind": (
        "{it} should be {kind}", "{it} is {kind} now", "{it} becomes {kind}", "{kind} instead of {him}",
        "{kind} instead", "{kind}", "now {kind}", "as {kind}", "I want {kind}", "I want {it} to be {kind}",
        "what if {it} was {kind}?", "what if {it} were {kind}?", "let us see {kind}",
        "{it} dressed up as {kind}", "what would {it} look like as {kind}?",
    ),
    "colour": (
        "{it} should be {colour}", "{it} is {colour} now", "{it} becomes {colour}", "{it} in {colour}",
        "{colour} instead of {old_colour}", "{colour} clothes", "in {colour}", "{colour}",
        "now in {colour}", "{it} should wear {colour}", "I want {it} {colour}", "I want {it} in {colour}",
        "all in {colour}", "what if {it} was {colour}?", "what would {it} look like in {colour}?",
        "{it} dressed in {colour}",
    ),
    "place": (
        "{it} should be {where}", "{it} is {where} now", "{it} {where}", "{where}", "now {where}",
        "{scenery}", "{scenery} in the background", "with {scenery} behind {him}",
        "{where} instead of {old_where}", "I want {it} {where}", "what if {it} was {where}?",
        "what would {it} look like {where}?", "{it} goes to {scenery}", "let us go to {scenery}",
        "the background should be {scenery}",
    ),
}  # fmt: skip
IDIOMS = {
    "grass": ("let the grass grow", "make it a meadow", "grow some grass", "a walk in the meadow"),
    "beach": ("let us go swimming", "make it a day at the beach", "add the sea behind {him}",
              "a seaside holiday"),
    "snow": ("make it snow", "let it snow", "make it winter", "add snow", "cover everything with snow",
             "it is winter now", "it is snowing"),
    "desert": ("make it a desert", "cover everything with sand", "send {him} into the desert"),
    "city": ("make it night", "let it be night", "turn day into night", "it is night now", "night",
             "make it night in the city", "go to town", "switch to night time"),
    "space": ("fly {him} to the moon", "send {him} into space", "make it space", "make it the moon",
              "shoot {him} into space"),
}  # fmt: skip


def instruction(before: Triple, after: Triple, rng: np.random.Generator) -> str:
    """Words that turn one scene into the other, which differs in one or two of kind, colour and place."""
    changed = [group for group, old, new in zip(GROUPS, before, after, strict=True) if old != new]
    if len(changed) == 1:
        table = ORDERS if rng.random() < 0.7 else WISHES
        templates = table[changed[0]]
        if changed == ["place"] and rng.random() < 0.2:
            templates = IDIOMS[after[2]]
        text = _fill(one_of(rng, templates), before, after, rng)
    elif rng.random() < 0.5:  # "make it a wizard and paint it blue"
        first, second = (changed[i] for i in rng.permutation(2))
        text = _fill(one_of(rng, ORDERS[first]), before, after, rng)
        text += f" and {_fill(one_of(rng, ORDERS[second]), before, after, rng, brief=True)}"
    else:  # "turn it into a blue wizard", "make it a wizard on the beach"
        text = _fill(one_of(rng, ORDERS[changed[0]]), before, after, rng)
        if changed[1] == "place":
            text += f" {one_of(rng, WHERE[after[2]])}"
    return _polite(text, rng)


def _fill(template: str, before: Triple, after: Triple, rng: np.random.Generator, brief: bool = False) -> str:
    """A template in words; if `brief`, who is there is "it" and the wanted kind comes without a colour."""
    kind, colour, place = after
    noun, hue = usual(rng, KIND_WORDS[kind]), usual(rng, COLOUR_WORDS[colour], 0.75)
    wanted = with_article(noun)
    if (before[1] != colour and not brief) or rng.random() < 0.1:
        wanted = with_article(f"{hue} {noun}") if rng.random() < 0.7 else f"{with_article(noun)} in {hue}"
    who = None if brief or rng.random() < 0.4 else _who(before, rng)
    return template.format(
        it=who or usual(rng, ("it", "he"), 0.5),
        him=who or usual(rng, ("it", "him"), 0.3),
        kind=wanted,
        colour=hue,
        where=usual(rng, WHERE[place], 0.3),
        scenery=one_of(rng, SCENERY[place]),
        old_colour=one_of(rng, COLOUR_WORDS[before[1]]),
        old_where=usual(rng, WHERE[before[2]]),
        old_scenery="the background" if rng.random() < 0.3 else one_of(rng, SCENERY[before[2]]),
    )


def _who(before: Triple, rng: np.random.Generator) -> str:
    """Who is there: "the robot", "the red robot", "the robot on the beach", "this figure"."""
    kind, colour, place = before
    noun = one_of(rng, ANYBODY) if rng.random() < 0.2 else usual(rng, KIND_WORDS[kind])
    if rng.random() < 0.25:
        noun = f"{usual(rng, COLOUR_WORDS[colour], 0.75)} {noun}"
    if rng.random() < 0.1:
        noun = f"{noun} {usual(rng, WHERE[place])}"
    return f"{'this' if rng.random() < 0.1 else 'the'} {noun}"


def _polite(text: str, rng: np.random.Generator) -> str:
    """Perhaps with a please, perhaps as a sentence."""
    style = float(rng.random())
    if style < 0.06:
        text = f"please {text}"
    elif style < 0.1:
        text = f"{text} please"
    elif style < 0.14 and not text.endswith("?"):
        text = f"could you {text}?"
    if rng.random() < 0.1:
        text = text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")
    return text


@dataclass(frozen=True)
class Edit:
    """A line of edits.jsonl: a scene, what is asked for, and what must then be seen."""

    scene: int
    """Its number in the split "test"."""
    instruction: str
    kind: str
    colour: str
    place: str
    source: str
    """"template" (made by template_edits) or "hand" (written by a person, not by these templates)."""


def load_edits() -> list[Edit]:
    """The 200 edits that models are judged by, fixed before any was judged."""
    text = resources.files(__package__).joinpath("edits.jsonl").read_text(encoding="utf-8")
    return [Edit(**json.loads(line)) for line in text.splitlines()]


def template_edits(count: int = 160, seed: int = 2025) -> list[Edit]:
    """Different instructions, each for a scene of its own; every eighth changes two of the three."""
    rng = np.random.default_rng(seed)
    edits: dict[str, Edit] = {}
    for i in range(count):
        number = FIRST_SCENE + i
        shown = scene(number, "test")
        before = (shown.kind, shown.colour, shown.place)
        spared = [(i + 1) % 3, (i + 2) % 3] if i % 8 else [i % 3]
        kind, colour, place = (
            name if group in spared else one_of(rng, tuple(other for other in names if other != name))
            for group, (name, names) in enumerate(zip(before, GROUPS.values(), strict=True))
        )
        text = ""
        while not text or text in edits:
            text = instruction(before, (kind, colour, place), rng)
        edits[text] = Edit(number, text, kind, colour, place, "template")
    return list(edits.values())
