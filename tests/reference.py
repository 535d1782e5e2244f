"""The tables of docs/reference.md, made from the rows that the code itself reads.

python tests/reference.py               prints the page
python tests/reference.py --write       writes it
"""

import sys
from pathlib import Path

from zswap.parameters import PARAMETERS
from zswap.stats import FIGURES, Kind
from zswap_core.status import Status

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
FROM = {"kernel": "the kernel's", "zram": "zram's", "zswap": "ours"}

TEXT = """# Parameters, figures, results

Made by `python tests/reference.py --write` from the rows in `zswap/parameters.py`,
`zswap/stats.py` and `zswap_core/status.py`.

## Parameters

`z.parameters` reads and sets them at any time; those that are arguments of `ZSwap` have the same
default there.

{parameters}

## Figures

`z.stats()` has them all, and `zswap/prometheus.py` under the names of the second column.

{figures}

## Results

What `store_many` and `load_many` say of a page, as `zswap.Status`. Of a single page it is an
exception.

{results}
"""


def code(text):
    return f"`{text}`"


def table(*rows):
    first, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, "|" + "---|" * len(rows[0]), *others])


def prometheus(name, row):
    if row.kind is Kind.REFUSAL:
        reason = name.removeprefix("reject_").removesuffix("_hit")
        return code(f'zswap_rejects_total{{reason="{reason}"}}')
    if row.kind.counts:
        return code(f"zswap_{name}_total")
    return code(
        f"zswap_{name}{'_bytes' if row.kind is Kind.SIZE and not name.endswith('_bytes') else ''}"
    )


def page():
    """All of docs/reference.md."""
    return TEXT.format(
        parameters=table(
            ("parameter", "values", "default", "what it does", "from"),
            *(
                (code(name), row.kind.name, code(row.default), row.text, FROM[row.origin])
                for name, row in PARAMETERS.items()
            ),
        ),
        figures=table(
            ("figure", "Prometheus", "kind", "what it is", "from"),
            *(
                (
                    code(name),
                    prometheus(name, row),
                    row.kind.value,
                    row.text,
                    FROM["kernel" if row.kernel else "zswap"],
                )
                for name, row in FIGURES.items()
            ),
        ),
        results=table(
            ("status", "code", "what became of the page", "counted as"),
            *(
                (
                    code(status.name),
                    str(status.value),
                    status.text,
                    code(status.counter) if status.counter else "",
                )
                for status in Status
            ),
        ),
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
