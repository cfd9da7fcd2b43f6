"""How torch's threads wait for one another, chosen by how busy the cores are. Before torch is imported."""

from __future__ import annotations

import os
import sys

from zs2kit.cli.terminal import log

# By default a thread that waits keeps its core busy for a while, which is the fastest where nobody else wants
# the core: on an idle machine passive waiting costs about 40% of an edit's time. Beside one busy process,
# though, busy waiting took 2.5 times as long as on an idle machine, and passive waiting 1.6 times.
POLICY = "OMP_WAIT_POLICY"
BUSY = 0.5  # cores that others keep busy, from which on threads wait passively
SAMPLE = 0.1  # seconds


def choose_waiting() -> None:
    """Have torch's threads wait passively if other processes keep cores busy, unless the user has chosen."""
    if POLICY in os.environ or "torch" in sys.modules:
        return
    busy = busy_cores()
    if busy >= BUSY:
        os.environ[POLICY] = "PASSIVE"
        log.info("other processes keep %.1f cores busy, so threads wait passively (%s)", busy, POLICY)


def busy_cores(seconds: float = SAMPLE) -> float:
    """Return how many cores are busy, on average over so many seconds, in which this process sleeps."""
    import psutil

    share: float = psutil.cpu_percent(seconds) / 100
    return share * (psutil.cpu_count() or 1)
