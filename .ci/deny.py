#!/usr/bin/env python3
"""Checks the dependency tree against deny.toml: licences, banned crates, sources.

Covers what `cargo deny check licenses bans sources` decides here, for machines without cargo-deny.
"""

import json
import re
import subprocess
import sys
import tomllib


def satisfied(expression: str, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression; `/` is the old spelling of OR."""
    words = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek() -> str | None:
        return words[position] if position < len(words) else None

    def take() -> str:
        nonlocal position
        position += 1
        return words[position - 1]

    def term() -> bool:
        word = take()
        if word == "(":
            value = either()
            if take() != ")":
                raise ValueError("unbalanced parentheses")
            return value
        if peek() == "WITH":
            take()
            word = f"{word} WITH {take()}"
        return word in allowed

    def both() -> bool:
        value = term()
        while peek() == "AND":
            take()
            value = term() and value
        return value

    def either() -> bool:
        value = both()
        while peek() == "OR":
            take()
            value = both() or value
        return value

    value = either()
    if peek() is not None:
        raise ValueError(f"unexpected {peek()!r}")
    return value


def findings(policy: dict, packages: list[dict]) -> list[str]:
    allowed = set(policy["licenses"]["allow"])
    banned = {entry["crate"]: entry["reason"] for entry in policy["bans"]["deny"]}
    found = []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        licence = package["license"]
        try:
            if not licence or not satisfied(licence, allowed):
                found.append(f"{name}: licence {licence!r} is not allowed")
        except (ValueError, IndexError) as error:
            found.append(f"{name}: licence {licence!r} cannot be read: {error}")
        if package["name"] in banned:
            found.append(f"{name}: banned: {banned[package['name']]}")
        source = package["source"]
        if source is not None and not source.startswith("registry+"):
            found.append(f"{name}: unknown source")
    return found


def main() -> int:
    with open("deny.toml", "rb") as file:
        policy = tomllib.load(file)
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in policy["graph"]["targets"]:
        command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    # The platform filter prunes the resolved graph, not the list of packages.
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    packages = [package for package in metadata["packages"] if package["id"] in used]
    found = findings(policy, packages)
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(packages)} packages, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
