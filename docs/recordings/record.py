"""Records of commands in a terminal, as text: asciinema's cast, version 2.

python docs/recordings/record.py advise    records advise.cast anew, on this machine as it is
python docs/recordings/record.py           all of them

`asciinema play docs/recordings/top.cast` plays one.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any, NamedTuple

import zswap

FOLDER = Path(__file__).resolve().parent
_PATH = str(Path(zswap.__file__).parents[1])  # of the zswap that is recorded
_TOGETHER = 0.08  # seconds: what comes within is one event

#: A program whose engine takes pages in until it is stopped.
SERVED = """
import random, zswap
chance = random.Random(0)
z = zswap.ZSwap("zstd", max_pool_bytes="6MiB", backing="swapfile", latency=True)
z.serve_stats("cache.sock")
for turn in range(1 << 30):
    for number in range(8000):
        z[number] = (f"row {number} " * 400).encode()[:2000] + chance.randbytes(2096)
        if number > 100:
            z[number - chance.randrange(100)]
        if number == 5000 and turn == 0:
            print(flush=True)
"""


class Session(NamedTuple):
    """What is recorded: a command typed at a prompt, and keys pressed later."""

    title: str
    columns: int
    rows: int
    command: str
    keys: tuple[tuple[float, str], ...] = ()
    beside: str = ""


SESSIONS = {
    "advise": Session("zswap advise", 100, 64, "zswap advise"),
    "top": Session("zswap top", 80, 34, "zswap top cache.sock", keys=((5.0, "q"),), beside=SERVED),
    "narrow": Session(
        "zswap top in 60 columns", 60, 46, "zswap top cache.sock --once", beside=SERVED
    ),
}


def record(session: Session) -> str:
    """Run a session in a terminal of its own; the cast."""
    head = {
        "version": 2,
        "width": session.columns,
        "height": session.rows,
        "timestamp": int(time.time()),
        "title": session.title,
        "env": {"TERM": "xterm-256color"},
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as keep:
        if session.beside:
            beside = subprocess.Popen(
                [sys.executable, "-c", session.beside],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": _PATH},
                stdout=subprocess.PIPE,
            )
            keep.callback(beside.wait)
            keep.callback(beside.terminate)
            assert beside.stdout is not None
            keep.enter_context(beside.stdout)
            beside.stdout.readline()
        events = _events(session, folder)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *events))


def _events(session: Session, folder: str) -> list[list[Any]]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "COLUMNS", "LINES")
    }
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": _PATH}
    command = [sys.executable, "-m", *session.command.split()]
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", session.rows, session.columns, 0, 0))
    begun = time.monotonic()
    events: list[list[Any]] = [[0.0, "o", f"$ {session.command}\r\n"]]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    keys = [*session.keys]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ):
        os.close(slave)
        while True:
            now = time.monotonic() - begun
            if keys and now >= keys[0][0]:
                os.write(master, keys.pop(0)[1].encode())
            wait = max(0.0, keys[0][0] - now) if keys else None
            if not select.select([master], [], [], wait)[0]:
                continue
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # nobody has the other end any more
                break
            if not data:
                break
            now, text = round(time.monotonic() - begun, 3), decoder.decode(data)
            if now - events[-1][0] < _TOGETHER:
                events[-1][2] += text
            elif text:
                events.append([now, "o", text])
    os.close(master)
    return events


def text_of(path: Path) -> str:
    """What the screen shows at the end of a recording; it takes pyte, of the extra `docs`."""
    import pyte

    head, *events = map(json.loads, path.read_text().splitlines())
    screen = pyte.Screen(head["width"], head["height"])
    stream = pyte.Stream(screen)
    for _, kind, data in events:
        if kind == "o":
            stream.feed(data)
    return "\n".join(line.rstrip() for line in screen.display).strip("\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or SESSIONS:
        (FOLDER / f"{name}.cast").write_text(record(SESSIONS[name]))
