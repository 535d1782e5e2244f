"""Watching a program that serves its figures: ``zswap top PATH``."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from zswap.meminfo import format_bytes
from zswap.serve import PROTOCOL_VERSION, SCHEMA
from zswap.stats import FIGURES, Kind

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = ["Connection", "Ended", "NotServed", "rates", "render", "run"]

_WAIT = 5.0  # seconds for an answer
_LATE = 2.0  # seconds after which the screen says that it waits
_TICK = 0.25  # seconds between two looks at the terminal's size
_ANSWER = 1 << 20  # bytes of an answer
_LARGEST = 1 << 64  # no number is so large
_WORDS = 200  # characters of a name
_ROWS = 50  # pools shown
_SUSPEND = b"\x1a"
_GAP = 3  # columns between tables side by side


def _rows(*kinds: Kind) -> tuple[tuple[str, str], ...]:
    """Label and name of the figures that are shown, by kind."""
    return tuple(
        (FIGURES[n].label, n)
        for kind in kinds
        for n in FIGURES
        if FIGURES[n].kind is kind and FIGURES[n].label
    )


_PAGES = _rows(Kind.PAGES)
_CALLS = (("stored", "stores"), *_rows(Kind.CALL))  # the first is reckoned here, see `rates`
_TROUBLES = _rows(Kind.REFUSAL, Kind.FAILURE)
_LATENCIES = ("p50", "p90", "p99", "max")
_ALL_LATENCIES = 72  # columns that they take


class NotServed(Exception):
    """There is nothing at the path that could be watched."""


class Ended(Exception):
    """The program has ended, closed its engine, or does not answer."""


class Connection:
    """A connection to a `zswap.serve.StatsServer`.

    Parameters
    ----------
    path : str
        The socket.

    Raises
    ------
    NotServed
        When the path is no such socket, or is not to be opened.
    Ended
        When the program that made the socket is dead.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._received = bytearray()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_WAIT)
        try:
            self.socket.connect(path)
        except ConnectionRefusedError:
            self.socket.close()
            if not os.path.exists(path) or not _is_socket(path):
                raise NotServed(
                    f"{path} is no socket; give the path that z.serve_stats(path) was given"
                ) from None
            raise Ended(f"nobody serves at {path} any more: the program has ended") from None
        except (OSError, ValueError) as error:
            self.socket.close()
            why = getattr(error, "strerror", None) or str(error)
            raise NotServed(
                f"cannot open {path or repr(path)}: {why}; give the path that z.serve_stats(path) "
                "was given"
            ) from None

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self.socket.fileno()

    def ask(self) -> None:
        """Send a request."""
        try:
            self.socket.sendall(b"stats\n")
        except OSError:
            self._ended()

    def receive(self) -> dict[str, Any] | None:
        """Take what has come; give the answer when it is complete, else None."""
        try:
            piece = self.socket.recv(1 << 16)
        except TimeoutError:
            raise Ended(f"no answer from {self.path} within {_WAIT:.0f} seconds") from None
        except OSError:
            piece = b""
        if not piece:
            self._ended()
        self._received += piece
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            if len(line) > _ANSWER:
                raise NotServed(f"what answers at {self.path} is not zswap")
            return None
        self._received = rest
        return _checked(bytes(line), self.path)

    def snapshot(self) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.ask()
        until = time.monotonic() + _WAIT
        while (answer := self.receive()) is None:
            if time.monotonic() > until:
                raise Ended(f"no answer from {self.path} within {_WAIT:.0f} seconds")
        return answer

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ended(self) -> NoReturn:
        raise Ended(f"the program at {self.path} has ended, or closed its engine") from None


def _is_socket(path: str) -> bool:
    import stat

    return stat.S_ISSOCK(os.stat(path).st_mode)


def _checked(line: bytes, path: str) -> dict[str, Any]:
    """Read an answer and check the types and sizes of its parts.

    The server need not be the one that we think.
    """
    try:
        answer = json.loads(line, parse_constant=lambda name: None, parse_float=_finite)
        if answer["schema"] != SCHEMA:
            raise ValueError
        version = answer["version"]
        if version != PROTOCOL_VERSION:
            raise NotServed(
                f"{path} speaks version {_number(version)} of the protocol, and this zswap version "
                f"{PROTOCOL_VERSION}"
            )
        if "error" in answer:
            raise Ended(f"{path} answers: {_text(answer['error'])}")
        stats = {key: value for key, value in answer["stats"].items() if _is_number(value)}
        return {
            **answer,
            "pid": int(_number(answer["pid"])),
            "command": str(answer["command"]),
            "uptime": float(_number(answer["uptime"])),
            "stats": stats
            | {"stores": _stores(stats, answer["parameters"].get("exclusive_loads") is True)},
            "pools": [
                {
                    **pool,
                    **{key: str(pool[key]) for key in ("compressor", "zpool")},
                    **{
                        key: int(_number(pool[key]))
                        for key in ("stored_pages", "total_size", "references")
                    },
                    "current": bool(pool["current"]),
                }
                for pool in answer["pools"]
            ],
            "latency": {
                str(kind): {key: value for key, value in figures.items() if _is_number(value)}
                for kind, figures in answer.get("latency", {}).items()
            },
            "parameters": dict(answer["parameters"]),
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise NotServed(f"what answers at {path} is not zswap") from None


def _finite(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def _is_number(value: object) -> bool:
    """Whether it is a number that a counter, or what is reckoned from counters, can have."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _number(value: Any) -> Any:
    if not _is_number(value):
        raise ValueError
    return value


def _plain(text: str) -> str:
    """Text of the program's without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _text(value: object) -> str:
    """Write a value as plain text, cut to what a line has room for."""
    text = _plain(str(value)[: _WORDS + 1])
    return text if len(text) <= _WORDS else text[:_WORDS] + "…"


# ---- figures -------------------------------------------------------------------------------------


def rates(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float] | None:
    """Events a second between two snapshots.

    Parameters
    ----------
    before, after : dict
        Answers of one program.

    Returns
    -------
    dict or None
        Pages a second for each figure of the stats, and ``stores``: pages taken in.  The engine
        does not count these; they follow from what is held, replaced and invalidated.  Pages that
        were written through in place of a held one are not among them.  None when no time has
        passed.
    """
    seconds = after["uptime"] - before["uptime"]
    if seconds <= 0:
        return None
    exclusive = after["parameters"].get("exclusive_loads") is True
    delta = {key: value - before["stats"].get(key, value) for key, value in after["stats"].items()}
    delta["stores"] = _stores(delta, exclusive)
    return {key: max(value, 0) / seconds for key, value in delta.items()}


def _stores(stats: dict[str, Any], exclusive: bool) -> float:
    """Pages taken in, from what became of them: they are held, were replaced, or were freed."""
    stores: float = sum(
        stats.get(key, 0)
        for key in ("stored_pages", "backed_pages", "duplicate_entry", "invalidates")
    )
    if exclusive:  # loads free their pages
        stores += stats.get("loads", 0) - stats.get("backing_loads", 0)
    return stores


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _rate(value: float) -> str:
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (
        f"{days} d {hours:02}:{minutes:02}:{seconds:02}"
        if days
        else f"{hours}:{minutes:02}:{seconds:02}"
    )


def _short_time(ns: float, ascii_only: bool) -> str:
    for limit, unit in ((1e3, "ns"), (1e6, "us" if ascii_only else "µs"), (1e9, "ms")):
        if ns < limit:
            return f"{ns * 1e3 / limit:.{0 if unit == 'ns' else 1}f} {unit}"
    return f"{ns / 1e9:.1f} s"


# ---- the screen ----------------------------------------------------------------------------------


def _table(title: str, *columns: str, left: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold", show_edge=False
    )
    for number, column in enumerate((title, *columns)):
        justify = "left" if number < left else "right"
        table.add_column(column, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    return table


def _bar(share: float, width: int, ascii_only: bool) -> Text:
    from rich.text import Text

    share = min(max(share, 0.0), 1.0)
    full, empty = ("#", "-") if ascii_only else ("█", "░")
    filled = min(width, math.ceil(share * width - 0.5)) if share else 0
    style = "green" if share < 0.75 else "yellow" if share < 0.95 else "red"
    return Text.assemble((full * filled, style), (empty * (width - filled), "bright_black"))


def _pages_table(now: dict[str, Any]) -> Table:
    stats, table = now["stats"], _table("pages", "now", "uncompressed")
    for label, key in _PAGES:
        pages = stats.get(key, 0)
        table.add_row(label, _count(pages), format_bytes(pages * stats.get("page_size", 0)))
    return table


def _events_table(
    title: str,
    rows: tuple[tuple[str, str], ...],
    now: dict[str, Any],
    speed: dict[str, float] | None,
    live: bool,
) -> Table:
    table = _table(title, *(["a second"] if live else []), "in all")
    for label, key in rows:
        total = now["stats"].get(key, 0)
        cells = [_count(total)]
        if live:
            cells.insert(0, _rate(speed.get(key, 0)) if speed is not None else "")
        table.add_row(
            label, *cells, style="dim" if not total and not (speed or {}).get(key) else None
        )
    return table


def _refusals_table(now: dict[str, Any], speed: dict[str, float] | None, live: bool) -> Table:
    """Make the table of what was refused or failed; what never happened is left out."""
    stats = now["stats"]
    rows = tuple(row for row in _TROUBLES if stats.get(row[1]))
    table = _events_table("refused, failed", rows, now, speed, live)
    if not rows:
        table.add_row("nothing", *([""] if live else []), "0", style="dim")
    return table


def _pools_table(now: dict[str, Any], more: bool) -> Table:
    from rich.markup import escape

    table = _table(
        "compressor",
        "zpool",
        "stores",
        "pages",
        "size",
        *(("B/page", "references") if more else ()),
        left=3,
    )
    for pool in now["pools"][:_ROWS]:
        pages, size = pool["stored_pages"], pool["total_size"]
        table.add_row(
            escape(_text(pool["compressor"])),
            escape(_text(pool["zpool"])),
            "here" if pool["current"] else "",
            _count(pages),
            format_bytes(size),
            *((_count(size / pages) if pages else "", _count(pool["references"])) if more else ()),
            style=None if pool["current"] else "dim",
        )
    if (rest := len(now["pools"]) - _ROWS) > 0:
        table.add_row(f"{rest:,} more")
    return table


class _Screen:
    """All of it, laid out for the width there is."""

    def __init__(
        self, now: dict[str, Any], speed: dict[str, float] | None, note: str, live: bool
    ) -> None:
        self.now, self.speed, self.note, self.live = now, speed, note, live

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._parts(console, options, self._spaced(console, options))

    def _spaced(self, console: Console, options: ConsoleOptions) -> bool:
        """Whether there is room for blank lines: what a screen is too low for is lost."""
        from rich.console import Group

        parts = Group(*self._parts(console, options, True))
        return (
            not self.live
            or len(console.render_lines(parts, options.update(height=None))) <= console.height
        )

    def _parts(
        self, console: Console, options: ConsoleOptions, spaced: bool
    ) -> Iterator[RenderableType]:
        from rich.console import Group
        from rich.measure import Measurement
        from rich.table import Table
        from rich.text import Text

        width = options.max_width
        blank = (Text(),) if spaced else ()
        yield self._header(width)
        yield from blank
        yield from self._memory(width, options.ascii_only)
        yield from blank
        pages = _pages_table(self.now)
        calls = _events_table("calls", _CALLS, self.now, self.speed, self.live)
        refusals = _refusals_table(self.now, self.speed, self.live)
        free = options.update(width=10 * width)

        def needed(row: list[RenderableType]) -> int:
            return sum(Measurement.get(console, free, table).maximum + _GAP for table in row) - _GAP

        pools = _pools_table(self.now, True)
        if needed([pools]) > width:
            pools = _pools_table(self.now, False)
        layouts: tuple[list[list[RenderableType]], ...] = (
            [[pages, calls, refusals, pools]],
            [[pages, calls, refusals], [pools]],
            [[Group(pages, *blank, refusals), calls], [pools]],
            [[pages], [calls], [refusals], [pools]],
        )
        rows = next((rows for rows in layouts if max(map(needed, rows)) <= width), layouts[-1])
        for number, row in enumerate(rows):
            if number:
                yield from blank
            grid = Table.grid(padding=(0, _GAP, 0, 0))
            grid.add_row(*row)
            yield grid

    def _header(self, width: int) -> Text:
        from rich.text import Text

        now = self.now
        note = f"  {self.note}" if self.note else ""
        start = f"zswap top  pid {now['pid']}  "
        room = max(width - len(start) - len(note), 8)
        command = _plain(now["command"])
        if len(command) > room:
            command = command[: room - 1] + "…"
        text = Text.assemble(
            (start, "bold"),
            command.ljust(room if note else 0),
            (note, "bold" if "answer" in note else "dim"),
        )
        text.no_wrap = True
        text.overflow = "crop"
        return text

    def _memory(self, width: int, ascii_only: bool) -> Iterator[Text]:
        from rich.text import Text

        stats = self.now["stats"]
        pool, limit = stats.get("pool_total_size", 0), stats.get("max_pool_bytes", 0)
        share = _share(pool, limit)
        amount = f"  {format_bytes(pool)} of {format_bytes(limit)}, {100 * share:.0f} %"
        budget = stats.get("max_memory_bytes", 0)
        of_budget = f" of {format_bytes(budget)}" if budget else ""
        yield Text.assemble(
            ("pools   ", "bold"),
            _bar(share, max(width - 8 - max(len(amount), 32), 8), ascii_only),
            amount,
        )
        yield Text.assemble(
            ("memory  ", "bold"),
            f"{format_bytes(stats.get('resident_bytes', 0))}{of_budget} in all, "
            f"metadata {format_bytes(stats.get('metadata_bytes', 0))}, idle "
            f"{format_bytes(stats.get('idle_bytes', 0))}",
        )
        yield Text.assemble(
            ("ratio   ", "bold"),
            (f"{stats.get('compression_ratio', 0):.2f}", "bold cyan"),
            f" ({format_bytes(stats.get('stored_bytes', 0))} held), payload ",
            (f"{stats.get('payload_ratio', 0):.2f}", "cyan"),
            f" ({format_bytes(stats.get('compressed_bytes', 0))})",
        )
        label = "latency "
        for kind, figures in list(self.now["latency"].items())[:_ROWS]:
            if figures.get("count"):
                times = (
                    f"{name} {_short_time(figures.get(name, 0), ascii_only):>8}"
                    for name in _LATENCIES
                    if name != "p90" or width >= _ALL_LATENCIES
                )
                yield Text.assemble((label, "bold"), f"{_text(kind):5}  ", "  ".join(times))
                label = " " * 8


def render(
    now: dict[str, Any],
    speed: dict[str, float] | None = None,
    *,
    note: str = "",
    live: bool = False,
) -> RenderableType:
    """Lay out a snapshot.

    Parameters
    ----------
    now : dict
        An answer of the program.
    speed : dict, optional
        What `rates` said.
    note : str
        For the right end of the first line.
    live : bool
        Whether to show rates.

    Returns
    -------
    rich renderable
    """
    return _Screen(now, speed, note, live)


# ---- the terminal --------------------------------------------------------------------------------


@contextlib.contextmanager
def _keys(fd: int | None) -> Iterator[None]:
    """Let single keys be read.

    Ctrl-Z comes as one, so that the screen can be left before stopping.
    """
    if fd is None:
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        mode = termios.tcgetattr(fd)
        mode[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(fd, termios.TCSANOW, mode)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals(*numbers: signal.Signals) -> Iterator[tuple[socket.socket, list[int]]]:
    """Take these signals as input, so that none interrupts a half-drawn screen.

    Gives a socket that wakes, and the numbers that came.
    """
    come: list[int] = []
    waker, wake = socket.socketpair()
    with waker, wake:
        wake.setblocking(False)
        fd = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, lambda number, frame: come.append(number))
            for number in numbers
            if signal.getsignal(number) is not signal.SIG_IGN  # as nohup has it
        }
        try:
            yield waker, come
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(fd)


class _Watch:
    """The live screen's loop: ask, take the answer, draw; meanwhile watch keys and window size."""

    def __init__(self, connection: Connection, interval: float, console: Console) -> None:
        self.connection, self.interval, self.console = connection, interval, console
        self.begun = time.monotonic()
        self.keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self.now = connection.snapshot()
        self.speed: dict[str, float] | None = None
        self.asked: float | None = None  # when, if the answer is still due

    def run(self) -> None:
        """Until q or Ctrl-C; SIGTERM and SIGHUP end the program."""
        while self._until_key() == _SUSPEND:
            # as the terminal would: the whole job; the next line runs when it is resumed
            os.kill(0, signal.SIGTSTP)

    def _draw(self) -> RenderableType:
        moment = time.monotonic()
        note = f"connected {_duration(moment - self.begun)}"
        if self.asked is not None and moment - self.asked > _LATE:
            note = f"no answer for {moment - self.asked:.0f} s"
        keys = "q quits  " if self.keyboard is not None else ""
        return render(self.now, self.speed, note=f"{keys}{note}", live=True)

    def _until_key(self) -> bytes:
        from rich.live import Live

        screen = Live(
            self._draw(),
            console=self.console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with (
            selectors.DefaultSelector() as selector,
            _signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH) as (
                waker,
                come,
            ),
            _keys(self.keyboard),
            screen,
        ):
            selector.register(waker, selectors.EVENT_READ)
            selector.register(self.connection, selectors.EVENT_READ)
            if self.keyboard is not None:
                selector.register(self.keyboard, selectors.EVENT_READ)
            due, size = time.monotonic() + min(self.interval, 1.0), self.console.size
            while True:
                moment = time.monotonic()
                if self.asked is None and moment >= due:
                    self.connection.ask()
                    self.asked = moment
                    due = max(due + self.interval, moment)
                wait = _TICK if self.asked is not None else min(max(due - moment, 0.0), _TICK)
                changed = False
                for key, _ in selector.select(wait):
                    if key.fd == self.keyboard:
                        pressed = os.read(key.fd, 64)
                        if not pressed or pressed[:1] in (b"q", b"Q", _SUSPEND):
                            return pressed[:1]
                    elif key.fileobj is waker:
                        waker.recv(64)
                    else:
                        changed |= self._take()
                if signal.SIGINT in come:
                    return b""
                if ending := [number for number in come if number != signal.SIGWINCH]:
                    raise SystemExit(128 + ending[0])
                late = self.asked is not None and time.monotonic() - self.asked > _LATE
                if changed or late or self.console.size != size:
                    size = self.console.size
                    screen.update(self._draw(), refresh=True)

    def _take(self) -> bool:
        answer = self.connection.receive()
        if answer is None:
            return False
        self.speed, self.now, self.asked = rates(self.now, answer), answer, None
        return True


def run(
    path: str, console: Console, *, interval: float = 1.0, once: bool = False, as_json: bool = False
) -> None:
    """Show a program's figures: live on a terminal until q or Ctrl-C, once elsewhere.

    Parameters
    ----------
    path : str
        The socket that `ZSwap.serve_stats` was given.
    console : rich.console.Console
        Where to.
    interval : float
        Seconds between two snapshots.
    once : bool
        Print one snapshot and return.
    as_json : bool
        Print one snapshot as JSON and return.

    Raises
    ------
    NotServed
        When there is nothing to watch at the path.
    Ended
        When the program ends meanwhile, or is dead.
    """
    with Connection(path) as connection:
        if as_json:
            console.file.write(json.dumps(connection.snapshot(), indent=2) + "\n")
        # FORCE_COLOR makes a terminal of anything
        elif once or console.is_dumb_terminal or not console.file.isatty():
            console.print(render(connection.snapshot()), highlight=False)
        else:
            with contextlib.suppress(KeyboardInterrupt):
                _Watch(connection, interval, console).run()
