"""For pytest: leave out the tests that a file names, which passed before by the same CPython."""

import os


def pytest_collection_modifyitems(config, items):
    with open(os.environ["PASSED_BEFORE"]) as file:
        passed = {line.rstrip("\n") for line in file}
    again = [item for item in items if item.nodeid in passed]
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item.nodeid not in passed]
