"""The tables of docs/02-spool.md that say what each step leaves, as the tests read them."""

import re

from .relay import REPOSITORY

PAGE = REPOSITORY / "docs" / "02-spool.md"


def table(first):
    """The rows of the table whose first column is called `first`, each as column -> text."""
    lines = iter(PAGE.read_text().splitlines())
    head = next(cells for line in lines if line.startswith("|") and (cells := _cells(line))[0] == first)
    assert set(next(lines)) <= set("|-"), "no table"
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(head, _cells(line), strict=True)))
    return rows


def _cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
