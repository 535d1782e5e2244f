"""`zswap top`: figures, layout, the live screen on a pseudo-terminal, and what it says when there
is nothing to watch."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import sys
import termios
import threading

import pytest
from rich.console import Console

import zswap
from zswap import top
from zswap.__main__ import main

PAGE = 4096


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return "s"


@pytest.fixture
def z():
    with zswap.ZSwap(max_pool_bytes="1MiB") as engine:
        engine.store_many(range(100, 120), os.urandom(20 * PAGE))
        engine.compressor = "zstd:3"
        engine.store_many(range(30), bytes(20 * PAGE) + os.urandom(10 * PAGE))
        engine.parameters["enabled"] = False
        engine.store_many(range(200, 203), bytes(3 * PAGE))
        engine.load_many(range(10))
        yield engine


@pytest.fixture
def server(z, path):
    with z.serve_stats(path) as running:
        yield running


@pytest.fixture
def now(server):
    with top.Connection("s") as connection:
        # not ours, which may name a test
        return {
            **connection.snapshot(),
            "command": "python3 a_program.py",
        }


def text_of(now, width, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(top.render(now, **options), highlight=False)
    return console.file.getvalue()


# ---- figures -------------------------------------------------------------------------------------


def snapshot(uptime, exclusive=False, **stats):
    return {"uptime": uptime, "stats": stats, "parameters": {"exclusive_loads": exclusive}}


def test_rates():
    before = snapshot(10.0, loads=100, written_back_pages=5, stored_pages=50)
    after = snapshot(12.0, loads=150, written_back_pages=5, stored_pages=30)
    speed = top.rates(before, after)
    assert speed["loads"] == 25
    assert speed["written_back_pages"] == 0
    assert speed["stored_pages"] == 0  # a gauge that fell
    assert top.rates(after, after) is None


@pytest.mark.parametrize("exclusive", [False, True])
def test_stores_follow_from_what_became_of_them(path, exclusive):
    with (
        zswap.ZSwap(max_pool_bytes="1MiB") as z,
        z.serve_stats(path),
        top.Connection(path) as connection,
    ):
        z.parameters["exclusive_loads"] = exclusive
        z[0] = bytes(PAGE)
        before = connection.snapshot()
        for k in range(40):
            z[k] = os.urandom(PAGE) if k % 2 else bytes(PAGE)
        assert z[3]
        assert z[4] == bytes(PAGE)
        z.invalidate_range(5, 10)
        after = connection.snapshot()
        assert after["stats"]["stores"] == 41
        assert top.rates(before, after)["stores"] * (
            after["uptime"] - before["uptime"]
        ) == pytest.approx(40)


# ---- the layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("live", [False, True])
def test_all_is_shown_at_every_width(now, width, live):
    text = text_of(now, width, live=live)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "pid",
        "stored",
        "same-filled",
        "refused",
        "storing is off",
        "zstd:3",
        "lz4",
        "zsmalloc",
        "here",
    ):
        assert part in text, part
    assert ("a second" in text) is live
    if width >= 80:
        assert "…" not in text.split("\n", 1)[1]
        for pattern in (
            r"stored +50 +200\.0 KiB",
            r"stored [^\n]* 50\b",
            r"loaded +10\b",
            r"of 1\.0 MiB",
            "references",
        ):
            assert re.search(pattern, text), pattern


def test_80_columns_and_24_rows_hold_it(now):
    assert text_of(now, 80, live=True).count("\n") <= 24


def test_a_budget_is_shown_where_there_is_one(now):
    assert re.search(r"memory +\S+ \S+ in all", text_of(now, 80))
    now["stats"]["max_memory_bytes"] = 12 << 20
    assert re.search(r"memory +\S+ \S+ of 12\.0 MiB in all", text_of(now, 80))


def test_latencies_are_shown_when_there_are_any(z, server, now):
    assert "latency" not in text_of(now, 80)
    z.parameters["latency"] = True
    z.load_many(range(10))
    with top.Connection("s") as connection:
        now = connection.snapshot()
    now["latency"]["load"].update(p50=950, p90=7_450, p99=1_230_000, max=2_500_000_000)
    text = text_of(now, 80)
    assert re.search(
        r"latency +load +p50 +950 ns +p90 +7\.[45] µs +p99 +1\.2 ms +max +2\.5 s\n", text
    )
    assert "store  " not in text
    z.compressor = "lz4"
    z.parameters["enabled"] = True
    z.store_many(range(10), os.urandom(10 * PAGE))
    with top.Connection("s") as connection:
        lines = text_of(connection.snapshot(), 80, live=True).splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith("latency store"))
    assert lines[first + 1].startswith("        load ")
    assert len(lines) <= 24


def test_a_server_that_knows_no_latencies(now):
    del now["latency"]
    line = json.dumps(now | {"schema": "zswap.stats"}).encode()
    assert top._checked(line, "s")["latency"] == {}


def test_a_long_name_moves_no_table_off_the_screen(now):
    now["pools"][0]["compressor"] = "zstd:3+dict:1a2b3c4d"
    text = text_of(now, 80, live=True)
    assert text.count("\n") <= 24
    assert re.search(r"zstd:3\+dict:1a2b3c4d +zsmalloc +here", text)
    assert "references" not in text
    assert "references" in text_of(now, 82, live=True)


def test_low_screens_do_without_blank_lines(now):
    def lines(height, live=True):
        console = Console(file=io.StringIO(), width=80, height=height, force_terminal=False)
        console.print(top.render(now, live=live), highlight=False)
        return console.file.getvalue().splitlines()

    high, low = lines(40), lines(20)
    assert sorted(" ".join(high).split()) == sorted(" ".join(low).split())
    assert len(low) == len(high) - 3
    assert lines(len(high)) == high
    assert lines(20, live=False) == lines(40, live=False)


def test_wide_terminals_have_tables_side_by_side(now):
    now["command"] = "x"  # the tests' own may have any word in it
    lines = {width: text_of(now, width, live=True).splitlines() for width in (80, 200)}

    def line(width, word):
        return next(number for number, text in enumerate(lines[width]) if word in text)

    assert line(200, "incompressible") == line(200, "missed") == line(200, "storing is off") + 2
    assert line(80, "storing is off") > line(80, "incompressible")
    assert line(80, "compressor") > line(80, "storing is off")
    assert line(200, "compressor") == line(200, "refused")


def test_rates_stand_before_totals(now):
    speed = {"loads": 12345.6, "load_misses": 3.21, "reject_disabled": 0.5}
    text = text_of(now, 80, speed=speed, live=True)
    assert re.search(r"loaded +12,346 +10\b", text)
    assert re.search(r"missed +3\.2 +0\b", text)
    assert re.search(r"storing is off +0\.5 +3\b", text)


def test_bar(now):
    for used, share in ((0, 0), (1, 1), (50, 50), (100, 100), (300, 100)):
        now["stats"].update(pool_total_size=used << 20, max_pool_bytes=100 << 20)
        bar = text_of(now, 148).splitlines()[2]
        assert bar.count("█") + bar.count("░") == 108
        assert bar.count("█") == pytest.approx(1.08 * share, abs=0.6)
    now["stats"].update(max_pool_bytes=0)
    assert ", 0 %" in text_of(now, 80)


def test_names_cannot_write_to_the_terminal(now):
    now["command"] = "evil \x1b[31m\x9b5n\ttab [bold]x[/bold] \udcff"
    now["pools"][0]["compressor"] = "\x1b]0;title\a[red]"
    text = text_of(now, 120)
    assert not set(text) & set("\x1b\x9b\t\a\udcff")
    assert "[bold]x[/bold]" in text
    assert "[red]" in text


def test_an_engine_that_knows_more_or_less(now):
    del now["stats"]["load_misses"]
    now["stats"]["new_figure"] = 1
    assert "missed" in text_of(now, 80)


# ---- the command ---------------------------------------------------------------------------------


def test_piped_output_is_one_snapshot(server, capsys):
    assert main(["top", "s"]) == 0
    plain = capsys.readouterr().out
    assert main(["top", "s", "--once"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(plain.splitlines())
    assert re.search(r"same-filled +20\b", plain)
    assert re.search(r"storing is off +3\b", plain)
    assert "a second" not in plain
    assert "\x1b" not in plain


def test_json(server, z, capsys):
    assert main(["top", "s", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "zswap.stats"
    assert answer["version"] == 1
    assert z.stats().to_dict().items() <= answer["stats"].items()
    assert [pool["compressor"] for pool in answer["pools"]] == [
        pool.compressor for pool in z.pools()
    ]


def refusal(capsys, *arguments):
    """Exit code and the one line of a command that fails."""
    code = main(["top", *arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return code, err


def test_wrong_paths(path, capsys):
    assert refusal(capsys, "none")[0] == 2
    open("file", "x").close()
    code, line = refusal(capsys, "file")
    assert code == 2
    assert "file is no socket" in line
    assert refusal(capsys, "x" * 200)[0] == 2
    assert refusal(capsys, "file", "--interval", "0")[0] == 2
    assert refusal(capsys)[0] == 2


def test_a_dead_programs_socket(path, capsys):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    code, line = refusal(capsys, path)
    assert code == 1
    assert "has ended" in line


@contextlib.contextmanager
def answering(path, *pieces):
    """A server that gives everybody these bytes, and keeps the connection."""

    def work():
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            kept.append(sock)
            for piece in pieces:
                sock.sendall(piece)
            if not pieces:
                sock.recv(100)
                sock.close()

    kept = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=work)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for sock in kept:
        sock.close()


GOOD = {
    "schema": "zswap.stats",
    "version": 1,
    "pid": 1,
    "command": "x",
    "uptime": 1,
    "stats": {},
    "pools": [],
    "parameters": {},
}


POOL = {
    "compressor": "lz4",
    "zpool": "zbud",
    "current": True,
    "stored_pages": 1,
    "total_size": 1,
    "references": 1,
}
LARGE = [10**300, 10**308, 10**400, 10**4000, -(10**300), -1, 2**64, 1e308, -1e308, 1e-320]


@pytest.mark.parametrize(
    "number", LARGE, ids=[f"{str(number)[:6]}" + f"({len(str(number))})" for number in LARGE]
)
@pytest.mark.parametrize("options", [["--once"], ["--json"]])
def test_numbers_that_no_counter_can_have(path, capsys, number, options):
    """They are left out, or the whole is refused: what shows them divides, rounds and adds them
    up."""
    with zswap.ZSwap(max_pool_bytes="1MiB") as z:
        names = z.stats().to_dict()
    latency = {"load": dict.fromkeys(("count", "total", "p50", "p90", "p99", "max"), number)}
    answer = GOOD | {"stats": dict.fromkeys(names, number), "latency": latency}
    with answering(path, json.dumps(answer).encode() + b"\n"):
        assert main(["top", path, *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    if options == ["--json"]:
        json.loads(out, parse_constant=pytest.fail)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have(path, capsys, name):
    line = json.dumps(GOOD | {"stats": {"loads": 0, "stored_pages": 1}, "time": 1}).replace(
        '"time": 1', f'"time": {name}'
    )
    line = line.replace('"loads": 0', f'"loads": {name}')
    with answering(path, line.encode() + b"\n"):
        assert main(["top", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["time"] is None
    assert found["stats"] == {"stored_pages": 1, "stores": 1}


def test_long_names_and_many_of_them(path, capsys):
    name = "[bold]\x1b[2J\u202e\ud800" + "é" * 400
    pools = [POOL | {"compressor": name, "zpool": name} for _ in range(60)]
    latency = {f"{number}{name}": {"count": 1, "p50": 1} for number in range(60)}
    with answering(
        path,
        json.dumps(GOOD | {"command": name, "pools": pools, "latency": latency}).encode() + b"\n",
    ):
        assert main(["top", path]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "10 more" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert len(out) < 60_000


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", 2, "not zswap"),
        (b"[]\n", 2, "not zswap"),
        (b"{}\n", 2, "not zswap"),
        (b"[" * 100_000 + b"\n", 2, "not zswap"),
        (b"x" * (2 << 20), 2, "not zswap"),
        (json.dumps(GOOD | {"version": 2}).encode() + b"\n", 2, "version 2"),
        (json.dumps(GOOD | {"pools": [{}]}).encode() + b"\n", 2, "not zswap"),
        (json.dumps(GOOD | {"pid": 1e400}).encode() + b"\n", 2, "not zswap"),
        (json.dumps(GOOD | {"pid": 10**300}).encode() + b"\n", 2, "not zswap"),
        (json.dumps(GOOD | {"uptime": -1}).encode() + b"\n", 2, "not zswap"),
        (
            json.dumps(GOOD | {"pools": [POOL | {"total_size": 10**300}]}).encode() + b"\n",
            2,
            "not zswap",
        ),
        (
            json.dumps(GOOD | {"pools": [POOL | {"references": "1"}]}).encode() + b"\n",
            2,
            "not zswap",
        ),
        (json.dumps(GOOD | {"version": "2" * 9999}).encode() + b"\n", 2, "not zswap"),
        (json.dumps(GOOD | {"error": "no \x1b memory"}).encode() + b"\n", 1, "no   memory"),
        (b'{"schema": ', 1, "no answer"),
    ],
)
def test_strange_answers(path, capsys, monkeypatch, answer, code, words):
    monkeypatch.setattr(top, "_WAIT", 0.2)
    with answering(path, answer):
        got, line = refusal(capsys, path)
    assert got == code
    assert words in line


def test_a_program_that_ends_instead_of_answering(path, capsys):
    with answering(path):
        assert refusal(capsys, path)[0] == 1


# ---- the live screen -----------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal in place of ours, and a thread that waits for words on it and then does
    something."""

    def __init__(self, monkeypatch):
        self.master, self.slave = pty.openpty()
        self.shown = b""
        self.before = termios.tcgetattr(self.slave)
        self.stdin = os.fdopen(self.slave, closefd=False)
        monkeypatch.setattr(sys, "stdin", self.stdin)
        monkeypatch.setenv("TERM", "xterm")
        self.out = os.fdopen(self.slave, "w", closefd=False)
        self.console = Console(file=self.out, force_terminal=True, width=80, height=24)

    def until(self, pattern):
        start = len(self.shown)
        while not re.search(pattern, self.shown[start:], re.DOTALL):
            self.shown += os.read(self.master, 1 << 16)

    def run(self, *steps, **options):
        """Run top while these steps are taken: a pattern to wait for, bytes to type, or a function
        to call."""

        def act():
            for step in steps:
                if callable(step):
                    step()
                elif isinstance(step, str):
                    self.until(step.encode())
                else:
                    os.write(self.master, step)
            # it leaves the screen, and nothing may wait for us to read
            while b"\x1b[?1049l" not in self.shown[-1000:]:
                self.shown += os.read(self.master, 1 << 16)

        thread = threading.Thread(target=act)
        thread.start()
        try:
            top.run("s", self.console, interval=0.1, **options)
        finally:
            thread.join()

    def restored(self):
        return termios.tcgetattr(self.slave) == self.before and self.shown.rfind(
            b"\x1b[?25h"
        ) > self.shown.rfind(b"\x1b[?25l")


@pytest.fixture
def terminal(monkeypatch):
    made = Terminal(monkeypatch)
    yield made
    made.stdin.close()
    made.out.close()
    os.close(made.master)
    os.close(made.slave)


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_one_snapshot(
    server, terminal, monkeypatch, name
):
    monkeypatch.setenv("TERM", name)
    top.run("s", Console(file=terminal.out, force_terminal=True, width=80, height=50))
    terminal.until(rb"zswap top")
    assert b"\x1b[?1049h" not in terminal.shown


def test_colours_that_are_forced_make_no_terminal_of_a_pipe(server, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["top", "s"]) == 0
    assert "stored" in capsys.readouterr().out


def test_live_until_q(server, z, terminal):
    terminal.run("q quits", r"loaded", lambda: z.load_many(range(10)), r"loaded[^\n]*20 ", b"q")
    assert terminal.restored()


def test_live_until_ctrl_c(server, terminal):
    terminal.run(
        "loaded", lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    )
    assert terminal.restored()


def test_live_until_terminated(server, terminal):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        terminal.run(
            "loaded", lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        )
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler
    assert terminal.restored()


def test_live_until_the_program_ends(server, terminal):
    with pytest.raises(top.Ended, match="ended"):
        terminal.run("loaded", server.close)
    assert terminal.restored()


def test_suspended_and_resumed(server, terminal, monkeypatch):
    def stop(pid, number):
        stops.append((pid, number, termios.tcgetattr(terminal.slave) == terminal.before))

    stops = []
    monkeypatch.setattr(os, "kill", stop)
    terminal.run("loaded", b"\x1a", "1049l.*1049h.*loaded", b"q")
    assert stops == [(0, signal.SIGTSTP, True)]
    assert terminal.restored()


def test_a_program_that_does_not_answer_is_said_so(server, terminal, monkeypatch):
    monkeypatch.setattr(top, "_LATE", 0.0)
    monkeypatch.setattr(top, "_TICK", 0.01)
    stopped = threading.Event()
    reply = type(server)._reply
    monkeypatch.setattr(
        type(server),
        "_reply",
        lambda *args: (stopped.wait(), reply(*args))[1] if waiting else reply(*args),
    )
    waiting = []
    terminal.run(
        "loaded",
        lambda: waiting.append(1),
        "no answer for",
        stopped.set,
        waiting.clear,
        "connected",
        b"q",
    )
    assert terminal.restored()
