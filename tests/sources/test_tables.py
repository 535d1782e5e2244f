"""One row says all of a parameter, a figure or a status: what else names them follows it."""

import inspect
import re

import pytest
import reference

import zswap
from hooks import ROOT
from zswap import top
from zswap.parameters import FIRST, PARAMETERS, SWITCH
from zswap.stats import FIGURES, Kind
from zswap_core.binding import COUNTER_NAMES, FLAGS
from zswap_core.status import REFUSALS, Status

needs_sources = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the sources are not here")


def sentence(text):
    return text[0].isupper() and text.endswith(".")


@needs_sources
def test_the_reference_is_what_the_rows_say():
    """`python tests/reference.py --write` makes it anew."""
    assert reference.PAGE.read_text() == reference.page()


@needs_sources
def test_c_has_the_numbers_of_every_status():
    text = (ROOT / "zswap_core" / "status.pxd").read_text()
    numbers = {
        name: int(value)
        for name, value in re.findall(r"^    ([A-Z_]+) = (-?\d+)", text, re.MULTILINE)
    }
    room = numbers.pop("REASONS")
    assert numbers == {status.name: status.value for status in Status}
    assert all(-room < status < room for status in Status)


def test_rows_are_sentences():
    for rows in (PARAMETERS, FIGURES, Status.__members__):
        assert [name for name, row in rows.items() if not sentence(row.text)] == []


def test_every_refusal_is_a_figure():
    assert list(REFUSALS) == [status.counter for status in Status if status.counter]
    assert set(REFUSALS) == {name for name, row in FIGURES.items() if row.kind is Kind.REFUSAL}
    assert all(status.text.startswith("Refused: ") and status.label for status in REFUSALS.values())
    assert len({status.label for status in REFUSALS.values()}) == len(REFUSALS)


def test_every_counter_of_the_engine_is_a_figure():
    assert set(COUNTER_NAMES) <= set(zswap.Stats.__dataclass_fields__)
    assert not set(COUNTER_NAMES) & set(REFUSALS), "these are counted by their status"


def test_top_shows_every_figure_that_has_a_label():
    shown = [name for _, name in (*top._PAGES, *top._CALLS, *top._TROUBLES)]
    assert set(shown) - {"stores"} == {name for name, row in FIGURES.items() if row.label}
    assert set(shown) >= set(REFUSALS) | {
        name for name, row in FIGURES.items() if row.kind is Kind.FAILURE
    }


def test_switches_have_a_flag_each():
    assert set(FLAGS) == {name for name, row in PARAMETERS.items() if row.apply == "switch"}
    assert all(PARAMETERS[name].kind is SWITCH for name in FLAGS)
    assert [name for name in FIRST if not hasattr(zswap.ZSwap, f"_apply_{name}")] == []


def test_a_flag_that_there_is_not_is_no_other():
    with zswap.ZSwap(max_pool_bytes="1MiB") as z, pytest.raises(ValueError, match="not in tuple"):
        z._set_flag("nonsense", True)


def test_arguments_have_the_defaults_of_the_rows():
    arguments = {
        name: p.default
        for name, p in inspect.signature(zswap.ZSwap).parameters.items()
        if name in PARAMETERS
    }
    assert {"compressor", "max_pool_bytes", "latency"} <= set(arguments)
    assert arguments == {name: PARAMETERS[name].default for name in arguments}
    with zswap.ZSwap(max_pool_bytes="1MiB") as z:
        assert dict(z.parameters) == {name: row.default for name, row in PARAMETERS.items()} | {
            "compressor": "lz4:1",
            "max_pool_bytes": 1 << 20,
        }


def test_help_has_every_row():
    for thing, rows in (
        (zswap.Parameters, PARAMETERS),
        (zswap.Status, Status.__members__),
        (zswap.Stats, REFUSALS),
    ):
        assert [
            name for name in rows if not re.search(rf"^ *{name} : ", thing.__doc__, re.MULTILINE)
        ] == []
    assert "Stores refused: the compressor failed." in zswap.Stats.__doc__
