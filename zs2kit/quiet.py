"""Silence: diffusers and transformers talk while they load, and a library must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import diffusers
import transformers

_LOADING = RLock()  # held within `quiet`, so whoever holds it must not wait for a model's lock


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers' and transformers' progress bars and log off the terminal.

    One thread at a time. These settings are the process's, as is what those libraries replace in torch while
    they load weights: two threads that load at once would leave it replaced, and later weights empty.
    """
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    with _LOADING:
        before = [(each.is_progress_bar_enabled(), each.get_verbosity()) for each in libraries]
        for each in libraries:
            each.disable_progress_bar()
            each.set_verbosity(each.CRITICAL)  # what fails is raised, and we say it
        try:
            yield
        finally:
            for each, (was_shown, verbosity) in zip(libraries, before, strict=True):
                each.set_verbosity(verbosity)
                if was_shown:
                    each.enable_progress_bar()
