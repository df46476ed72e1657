#!/usr/bin/env python3
"""Checks that every relative link in the Markdown files leads to a file, and every anchor to a heading."""

import re
import subprocess
import sys
from pathlib import Path


def anchors(path: Path) -> set[str]:
    """The anchors GitHub makes of the headings of a file."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], check=True, stdout=subprocess.PIPE)
    broken = 0
    for path in map(Path, listed.stdout.decode().split()):
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in link:
                continue
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            if not target.exists() or (anchor and anchor not in anchors(target)):
                print(f"{path}: {link}", file=sys.stderr)
                broken += 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
