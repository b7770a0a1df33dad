#!/usr/bin/env python3
"""Checks the tree of dependencies against deny.toml: licences, bans, second copies, sources.

A small stand-in for `cargo deny check licenses bans sources` that needs nothing but cargo and Python 3.11; it reads the
same rules. Not checked here: advisories, wildcard versions.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def tokens(expression):
    """An SPDX expression in parts; `/` is the old way to write OR."""
    return re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))


def allowed(expression, allow):
    """Whether the terms of an SPDX expression can be met with the licences in `allow`. AND binds before OR."""
    rest = tokens(expression)

    def either():
        met = both()
        while rest and rest[0] == "OR":
            rest.pop(0)
            met = both() or met
        return met

    def both():
        met = one()
        while rest and rest[0] == "AND":
            rest.pop(0)
            met = one() and met
        return met

    def one():
        name = rest.pop(0)
        if name == "(":
            met = either()
            assert rest.pop(0) == ")", expression
            return met
        if rest and rest[0] == "WITH":
            rest.pop(0)
            name = f"{name} WITH {rest.pop(0)}"
        return name in allow

    met = either()
    assert not rest, f"not an SPDX expression: {expression}"
    return met


def faults(packages, rules):
    """What is against the rules, one line each."""
    allow = set(rules["licenses"]["allow"])
    banned = {rule["crate"]: rule for rule in rules["bans"]["deny"]}
    versions = defaultdict(set)
    for package in packages:
        name, version, source = package["name"], package["version"], package["source"]
        versions[name].add(version)
        if source is not None and source != CRATES_IO:
            yield f"{name} {version}: comes from {source}, not from crates.io"
        if not package["license"]:
            yield f"{name} {version}: no licence is named in its manifest"
        elif not allowed(package["license"], allow):
            yield f"{name} {version}: {package['license']}: not in the allowed licences of deny.toml"
        rule = banned.get(name)
        if rule and not rule.get("deny-multiple-versions"):
            yield f"{name} {version}: banned: {rule['reason']}"
    for name, found in sorted(versions.items()):
        if len(found) > 1 and banned.get(name, {}).get("deny-multiple-versions"):
            yield f"{name}: more than one copy: {', '.join(sorted(found))}"


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in rules["graph"]["targets"]:
        command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    packages = [package for package in metadata["packages"] if package["id"] in used]
    found = list(faults(packages, rules))
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(packages)} packages: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
