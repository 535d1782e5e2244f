"""What a command owes its shell: closed streams borne, one line for an error, an exit code."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import select
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zswap import CompressorNotFound, Error, signals
from zswap.output import OutputError, OutputFailed

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Failure",
    "Refusal",
    "calm",
    "console",
    "plain_errors",
    "printed_first",
    "progress_bar",
    "run",
    "say",
    "tell",
]

Found = TypeVar("Found")

_PIPE_WIDTH = 120
_WIDTHS = range(20, 1000)  # of a screen, believed


class Refusal(click.ClickException):
    """Something that the user can set right: one line, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the message as one line on standard error."""
        say(self.format_message())


class Failure(Refusal):
    """The work failed: one line, exit code 1."""

    exit_code = 1


def say(message: str) -> None:
    """Print one line on standard error, whatever is in the names that it quotes."""
    from zswap.pages import printable

    click.echo(f"zswap: {printable(message)}", err=True)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can meet into one line and an exit code."""
    try:
        yield
    except (Error, MemoryError) as error:
        from zswap.pages import SourceError
        from zswap.plot import PlotError

        refused = (SourceError, PlotError, OutputError, CompressorNotFound)
        kind = (
            Refusal
            if isinstance(error, refused) and not isinstance(error, OutputFailed)
            else Failure
        )
        raise kind(str(error) or "not enough memory: ask for fewer pages with --pages") from error


@contextlib.contextmanager
def printed_first(then: Callable[[], object]) -> Iterator[None]:
    """Print in the block; then do what may fail, lest the report be lost to it.

    A reader who has seen enough of the report (``| head``) does not keep the rest from being done.
    """
    lost: OSError | None = None
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        lost = error
    then()
    if lost is not None:
        raise lost


def tell(
    found: Found,
    *,
    as_json: bool,
    plot: str | None,
    json_of: Callable[[Found], object],
    print_of: Callable[[Found, Console], object],
    save_of: Callable[[Found, str], object],
) -> None:
    """End a command: print what it has found, then draw it where that is asked for.

    Parameters
    ----------
    found : object
    as_json : bool
        Print JSON, not text.
    plot : str or None
        Where the picture goes, if there shall be one.
    json_of, print_of, save_of : callable
        Make its JSON; print it on a console; draw it to a file.
    """

    def draw() -> None:
        if plot is not None:
            save_of(found, plot)
            click.echo(f"drawn: {plot}", err=True)

    with printed_first(draw):
        if as_json:
            click.echo(json.dumps(json_of(found), indent=2, allow_nan=False))
        else:
            print_of(found, console())


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], object] | None]:
    """Show a progress bar on a terminal that can take it back, nothing elsewhere."""
    if not sys.stderr.isatty() or (on := console(err=True)).is_dumb_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=on, transient=True) as bar:
        task = bar.add_task("reading pages", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def run(command: click.Command, arguments: list[str] | None = None, *, name: str) -> int:
    """Run a command, whatever it was started with.

    Parameters
    ----------
    command : click.Command
    arguments : list of str, optional
        ``sys.argv[1:]`` unless given.
    name : str
        As usage messages name it.

    Returns
    -------
    int
        The exit code: 0 done; 1 the work failed; 2 wrong usage, or a target that cannot be read;
        128 and the signal's number when a signal ended it (130 for Ctrl-C).
    """
    _forget_wrong_sizes()
    with _streams(), calm():
        try:
            with signals.raised():
                code = _run(command, arguments, name)
        except (KeyboardInterrupt, SystemExit) as late:  # while it was on its way out
            code = _ended(late)
        return _flushed(code)


def _run(command: click.Command, arguments: list[str] | None, name: str) -> int:
    try:
        with plain_errors():
            result = command.main(args=arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and newer: `zswap` alone
            error.show()
        else:
            where = error.ctx.command_path if error.ctx is not None else name
            say(f"{error.format_message()} (see `{where} --help`)")
        return error.exit_code
    except click.ClickException as error:
        say(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt, SystemExit) as error:
        return _ended(error)
    except BrokenPipeError:
        # the reader of our output has gone: nothing more can be said (click and rich do alike)
        return 1
    except OSError as error:
        say(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return 1
    except Exception as error:
        if "ZSWAP_TRACEBACK" in os.environ:
            raise
        say(
            f"{type(error).__name__}: {error}; this should not be: please report it, with what "
            "ZSWAP_TRACEBACK=1 adds"
        )
        return 1


def _ended(error: BaseException) -> int:
    """Return the exit code of what was stopped."""
    if not isinstance(error, SystemExit):
        say("stopped")
        return 128 + signal.SIGINT
    if isinstance(error.code, int) and error.code > 128:
        with contextlib.suppress(ValueError):
            say(f"stopped by {signal.Signals(error.code - 128).name}")
    return error.code if isinstance(error.code, int) else 1 if error.code else 0


# ---- surroundings --------------------------------------------------------------------------------


def _forget_wrong_sizes() -> None:
    """COLUMNS and LINES are whatever another program has left there."""
    for name in ("COLUMNS", "LINES"):
        value = os.environ.get(name, "")
        if not (value.isascii() and value.isdigit() and len(value) < 5 and int(value) in _WIDTHS):
            os.environ.pop(name, None)


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Keep warnings of the libraries below from being errors (PYTHONWARNINGS=error).

    They are not the user's.
    """
    with ExitStack() as stack:
        if any(option.startswith("e") for option in sys.warnoptions):
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        yield


def console(*, err: bool = False) -> Console:
    """Make a console on standard output or error: as wide as the terminal, or 120 columns."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # for `run` to answer, which knows what else there is to do

    made = Plain(stderr=err)
    if made.is_dumb_terminal:  # which rich takes to be 80 columns wide, whatever it is
        made.size = shutil.get_terminal_size((80, 25))
    elif not made.is_terminal:
        made = Plain(stderr=err, width=max(_PIPE_WIDTH, int(os.environ.get("COLUMNS", "0"))))
    return made


# ---- standard streams ----------------------------------------------------------------------------

_SIGNS = str.maketrans(
    {
        "µ": "u",
        "±": "+-",
        "×": "x",
        "∞": "inf",
        "≤": "<=",
        "≥": ">=",
        "…": "...",
        "█": "#",
        "░": "-",
    }
)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Replace what the encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_SIGNS)
    return "".join(c if c.isascii() else "?" for c in text), error.end


codecs.register_error("zswap", _replaced)


class _Stream(io.FileIO):
    """A standard stream.

    Where standard output fails, the error names it; of standard error nobody can be told.
    """

    def __init__(self, fd: int, *, lenient: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self.lenient = lenient

    def write(self, data: Any) -> int:
        try:
            while (done := super().write(data)) is None:  # somebody has set it not to block
                select.select([], [self], [])
            return done
        except OSError as error:
            if self.lenient:
                return len(data)
            raise OSError(error.errno, f"cannot write standard output: {error.strerror}") from error


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Put up with standard streams that are closed, full, not to block, or lack characters.

    Those of a test are left alone.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    own = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    with ExitStack() as keep:
        # A closed descriptor would be the next file's: that a message goes there would be the end
        # of it.  What is written to standard output, when it was closed, is an error all the same.
        for fd, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
            try:
                os.fstat(fd)
            except OSError:
                os.open(os.devnull, mode)
        if before[0] is None and own[0] is None:
            sys.stdin = keep.enter_context(open(os.devnull))
        if before[1] is own[1]:
            sys.stdout = _text(before[1], 1, lenient=False, keep=keep)
        elif isinstance(before[1], io.TextIOWrapper):
            before[1].reconfigure(errors="zswap")
        if before[2] is own[2]:
            sys.stderr = _text(before[2], 2, lenient=True, keep=keep)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(
                    raw := getattr(getattr(stream, "buffer", None), "raw", None), _Stream
                ):
                    with contextlib.suppress(OSError, ValueError):
                        stream.flush()
                    raw.lenient = True
            sys.stdin, sys.stdout, sys.stderr = before


def _text(before: Any, fd: int, *, lenient: bool, keep: ExitStack) -> io.TextIOWrapper:
    if before is None:  # the number may be another file's by now
        fd = os.open(os.devnull, os.O_WRONLY if lenient else os.O_RDONLY)
        keep.callback(os.close, fd)
    raw = _Stream(fd, lenient=lenient)
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "zswap", line_buffering=lenient or raw.isatty()
    )


def _flushed(code: int) -> int:
    """Write what is still to be written, and the exit code that this makes."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return code or 1
    except (OSError, ValueError) as error:
        if not code:
            say(getattr(error, "strerror", None) or str(error))
        return code or 1
    return code
