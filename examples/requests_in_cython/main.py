"""Sends pages through an engine that has room for a part of them."""

import tempfile
from pathlib import Path

import requests_in_cython

PAGE = 4096


def main():
    pages = b"".join(
        (n * 2654435761 % 2**64).to_bytes(8, "little") + bytes(range(256)) * 15 + bytes(248)
        for n in range(4000)
    )
    with tempfile.TemporaryDirectory() as folder:
        back, waited, backed = requests_in_cython.round_trip(
            pages, max_pool_bytes=256 << 10, backing=str(Path(folder) / "spill")
        )
    assert back == pages
    print(f"{len(pages) // PAGE} pages came back; {backed} lay in the swap file, {waited} waited")


if __name__ == "__main__":
    main()
