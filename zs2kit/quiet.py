"""Quiet: keeps diffusers and transformers from printing while they load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import diffusers
import transformers

_LOADING = RLock()  # held within `quiet`; whoever holds it must not wait for a model's lock


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers' and transformers' progress bars and log off the terminal.

    Only one thread at a time can be in here, since these settings hold for the whole process. So do the parts
    of torch that those libraries replace while they load weights: if two threads loaded at once, they would
    stay replaced, and weights that are loaded later would be empty.
    """
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    with _LOADING:
        before = [(each.is_progress_bar_enabled(), each.get_verbosity()) for each in libraries]
        for each in libraries:
            each.disable_progress_bar()
            each.set_verbosity(each.CRITICAL)  # failures are raised anyway
        try:
            yield
        finally:
            for each, (was_shown, verbosity) in zip(libraries, before, strict=True):
                each.set_verbosity(verbosity)
                if was_shown:
                    each.enable_progress_bar()
