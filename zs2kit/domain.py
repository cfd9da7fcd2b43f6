"""What a model can draw, if that is little, so that zs2kit can say when a clip or a prompt is beyond it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FILE = "domain.json"  # in the checkpoint's folder


@dataclass(frozen=True)
class Domain:
    """What a checkpoint was trained on.

    about: what it is and what it can draw, as the end of a sentence.
    psnr: how well its VAE rebuilds pictures of this kind, at least, in dB.
    words: all words that it knows, in lower case; None if there is no such list.
    """

    about: str
    psnr: float
    words: frozenset[str] | None

    @classmethod
    def of(cls, folder: Path) -> Domain | None:
        """Return the domain of the checkpoint in ``folder``; None if the checkpoint doesn't say."""
        file = folder / FILE
        if not file.is_file():
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
        return cls(found["about"], found["psnr"], frozenset(found["words"]))

    def unknown(self, prompts: Iterable[str]) -> list[str]:
        """Return the words of ``prompts`` that the model doesn't know, each once."""
        if self.words is None:
            return []
        said = [word for prompt in prompts for word in words_of(prompt)]
        return [word for word in dict.fromkeys(said) if word not in self.words]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without numbers and punctuation."""
    return re.findall(r"[^\W\d_]+", text.lower())
