"""Let atheris feed a drive: `python tests/fuzz/run.py DRIVE -max_total_time=SECONDS [FOLDER]`; see
README.md."""

import importlib
import sys
from pathlib import Path

import atheris

DRIVES = ("decompress", "api", "parts", "swapfile")


def main():
    """Run the drive that the first argument names; the rest is libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in DRIVES:
        sys.exit(f"{__doc__}\nDRIVE is one of {', '.join(DRIVES)}")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["zswap", "zswap_core", "common", "api", name]):
        drive = importlib.import_module(name)
    known = Path(__file__).parent / "corpus" / name
    atheris.Setup(
        [*sys.argv, "-len_control=0", "-timeout=60", *([str(known)] if known.is_dir() else [])],
        drive.one_input,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
