"""What the tests of backing stores share."""

import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(params=["disk", "shm"])
def folder(request, tmp_path):
    """A folder on the disk, and one in memory: O_DIRECT is another thing on each."""
    if request.param == "disk":
        yield tmp_path
    elif not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm to write to")
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            yield Path(name)
