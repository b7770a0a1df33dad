"""The licence check that stands in for cargo-deny: it must be able to fail."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import licences  # noqa: E402

RULES = {
    "licenses": {"allow": ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]},
    "bans": {"deny": [{"crate": "cmake", "reason": "no"}, {"crate": "tonic", "deny-multiple-versions": True}]},
}


@pytest.mark.parametrize(
    "expression, met",
    [
        ("MIT", True),
        ("GPL-3.0", False),
        ("MIT OR GPL-3.0", True),
        ("GPL-3.0/MIT", True),
        ("MIT AND GPL-3.0", False),
        ("(MIT OR GPL-3.0) AND Apache-2.0", True),
        ("(ISC OR GPL-3.0) AND MIT", False),
        ("GPL-3.0 OR MIT AND ISC", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT WITH LLVM-exception", False),
    ],
)
def test_expressions(expression, met):
    """AND binds before OR, WITH before both."""
    assert licences.allowed(expression, set(RULES["licenses"]["allow"])) == met


def package(name, version="1.0.0", license="MIT", source=licences.CRATES_IO):
    return {"name": name, "version": version, "license": license, "source": source}


@pytest.mark.parametrize(
    "packages, fault",
    [
        ([package("a", license="GPL-3.0")], "GPL-3.0"),
        ([package("a", license=None)], "no licence"),
        ([package("cmake")], "banned"),
        ([package("tonic"), package("tonic", "2.0.0")], "more than one copy"),
        ([package("a", source="git+https://example.com/a")], "not from crates.io"),
    ],
)
def test_faults(packages, fault):
    """Each rule finds what is against it, and only that."""
    [line] = licences.faults(packages, RULES)
    assert fault in line


def test_no_fault():
    """What is right passes: two versions of an ordinary crate, our own crates, one tonic."""
    right = [
        package("a"),
        package("a", "2.0.0"),
        package("tonic"),
        package("ours", source=None, license="Apache-2.0 OR MIT"),
    ]
    assert list(licences.faults(right, RULES)) == []
