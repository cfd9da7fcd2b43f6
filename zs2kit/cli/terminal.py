"""How commands behave at a terminal: a line for each error and notice, progress, and Ctrl-C."""

from __future__ import annotations

import functools
import logging
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from zs2kit.errors import Notice, PluginError, UsageError, Zs2Error, is_out_of_memory, receiving

log = logging.getLogger("zs2kit")

OUT_OF_MEMORY = "out of memory; use a smaller --size"

# Libraries whose warnings are about their own code: a user of zs2kit can't do anything about them
NOISY = ("controlnet_aux", "diffusers", "huggingface_hub", "timm", "torch", "torchvision", "transformers")


class Commands(click.Group):
    """A group of commands in which every expected failure is one line on stderr."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit with 0, 1 (it failed), 2 (it was used wrongly) or 130 (interrupted)."""
        words = args[0] if args else extra.get("args")
        words = list(sys.argv[1:] if words is None else words)  # as typed, for reports
        try:
            with _interruptible():
                code = super().main(*args, **{**extra, "obj": words, "standalone_mode": False})
        except click.Abort as error:
            code = self._fail("interrupted", 130, error)
        except click.UsageError as error:
            asked = error.ctx.command_path if error.ctx else "zs2kit"
            code = self._fail(f"{error.format_message()} See '{asked} --help'.", 2)
        except UsageError as error:
            code = self._fail(str(error), 2, error)
        except Zs2Error as error:
            code = self._fail(str(error), 1, error)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            code = self._fail(OUT_OF_MEMORY, 1, error)
        sys.exit(code)

    def _fail(self, message: str, code: int, error: BaseException | None = None) -> int:
        """Print what went wrong, with the notes of the error and of its cause; return ``code``."""
        say(worded("; ".join([f"error: {message}", *_notes(error)]), self))
        return code


def _notes(error: BaseException | None) -> list[str]:
    """Return the notes of an error and of its cause."""
    causes = (error, getattr(error, "__cause__", None))
    return [note for each in causes for note in getattr(each, "__notes__", ())]


def say_failure(error: Exception, *, about: str) -> None:
    """Print what went wrong with one clip of several; ``about`` is the clip."""
    message = str(error) if isinstance(error, Zs2Error) else OUT_OF_MEMORY
    named = message if about in message else f"{about}: {message}"
    say(worded_here("; ".join([f"error: {named}", *_notes(error)])))


def worded(text: str, commands: click.Group) -> str:
    """Return a text of the library with its arguments replaced by the options of ``commands``.

    `overwrite=True` becomes --overwrite, `resume=False` --no-resume, `pose.scale=0.8` --set pose.scale=0.8.
    """
    flags = {
        each.name: each
        for command in commands.commands.values()
        for each in command.params
        if isinstance(each, click.Option)
    }
    if "fps" in flags:
        flags["rate"] = flags["fps"]  # Python's name for it

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if "." in name:
            return name if value is None else f"--set {name}={value}"
        option = flags.get(name)
        if option is None:
            return match[0]
        if value == "False" and option.secondary_opts:
            return option.secondary_opts[0]
        long = max(option.opts, key=len)
        if value in (None, "True"):
            return long
        return f"{long} none" if value == "()" else f"{long} {value.strip(chr(39))}"

    return re.sub(r"`([a-z_]+(?:\.[a-z_]+)?)(?:=([^`]*))?`", flag, text)


def say(message: str) -> None:
    """Print a message on stderr, always as one line."""
    print("zs2kit:", " ".join(message.split()), file=sys.stderr)


def worded_here(text: str) -> str:
    """Return a text of the library worded for the running command, see `worded`."""
    context = click.get_current_context(silent=True)
    root = context.find_root().command if context else None
    return worded(text, root) if isinstance(root, click.Group) else text


def tell(notice: Notice, *, quiet: bool = False) -> None:
    """Print a notice, as a warning unless it only tells a default; those are left out if ``quiet``."""
    by_default = notice.kind.startswith("default-")
    if not (by_default and quiet):
        say(f"{'' if by_default else 'warning: '}{worded_here(str(notice))}")


class _Lines(logging.Handler):
    """Prints log records as the command line prints everything."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def manners(
    *,
    quiet: bool = False,
    verbose: bool = False,
    trace_hooks: bool = False,
    notices: Callable[[Notice], object] | None = None,
) -> Iterator[None]:
    """Within this context notices, zs2kit's log and Python's warnings are single lines on stderr.

    notices: receives notices instead of the terminal. quiet: those that only tell a default are left out.
    """
    notices = notices or functools.partial(tell, quiet=quiet)

    def show(message: Warning | str, *_: object, **__: object) -> None:
        notices(Notice("warning", str(message)))

    handler, hooks = _Lines(), logging.getLogger("zs2kit.hooks")
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    hooks.setLevel(logging.DEBUG if trace_hooks else logging.NOTSET)
    try:
        with warnings.catch_warnings(), receiving(notices):
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)  # which plugins of third parties may send
            warnings.filterwarnings("ignore", module=rf"({'|'.join(NOISY)})(\.|$)")
            warnings.showwarning = show
            yield
    except PluginError as error:
        if verbose and error.__cause__:  # for the plugin's author: where it failed
            traceback.print_exception(error.__cause__)
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
        hooks.setLevel(logging.NOTSET)


def hush() -> None:
    """Silence the logs of the libraries that load models, which are for their own developers."""
    from diffusers.utils import logging as diffusers_log
    from huggingface_hub.utils import logging as hub_log
    from transformers.utils import logging as transformers_log

    for library in (diffusers_log, hub_log, transformers_log):
        library.set_verbosity_error()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP interrupt, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
        ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        # Handlers that nohup, or a program that we are part of, has set stay.
        ours = [each for each in ends if signal.getsignal(each) is signal.SIG_DFL]
        before = {each: signal.signal(each, interrupt) for each in ours}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def stoppable(left: Callable[[], int | None]) -> Iterator[Callable[[], bool]]:
    """Within this context the first Ctrl-C only makes the yielded function return True; the next interrupts.

    left: returns how many more frames will be drawn before that function is called, or None if unknown.
    """
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        frames = left()
        say(f"stopping after {frames or 'a few'} more frames; press Ctrl-C again to stop at once")

    main_thread = threading.current_thread() is threading.main_thread()  # only this one may set handlers
    ours = main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Grouped(click.Option):
    """An option that help shows under the heading ``group``."""

    def __init__(self, *args: Any, group: str, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.group = group


class Command(click.Command):
    """A command whose help shows its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for each in self.get_params(ctx):
            if isinstance(each, click.Option) and (record := each.get_help_record(ctx)):
                groups.setdefault(getattr(each, "group", "Options"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None, those that somebody gave."""
    return {name: value for name, value in values.items() if value is not None}
