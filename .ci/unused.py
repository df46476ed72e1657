"""Finds direct dependencies that their package does not use, and entries of [workspace.dependencies] that no package uses.

A dependency is used if a path or a `use` begins with its name in a Rust file that can refer to it: src/ and build.rs for normal
ones, also tests and benches for others. Names in comments do not count.
"""

import json
import pathlib
import re
import subprocess
import tomllib

# Used only in the code that build.rs generates from proto/.
GENERATED = {"cvm-kms": {"prost", "tonic-prost"}}


def text_of(package, kinds):
    root = pathlib.Path(package["manifest_path"]).parent
    files = [root / "build.rs", *(root / "build").glob("*.rs"), *(root / "src").rglob("*.rs")]
    if "dev" in kinds:
        for directory in ("tests", "benches", "examples"):
            files += (root / directory).rglob("*.rs")
    # Files of other directories that are included with #[path].
    for path in list(files):
        if path.is_file():
            for named in re.findall(r'#\[path = "([^"]+)"\]', path.read_text()):
                outside = (path.parent / named).resolve()
                files += [outside, *outside.parent.rglob("*.rs")]
    lines = (line for path in set(files) if path.is_file() for line in path.read_text().splitlines())
    return "\n".join(line for line in lines if not line.lstrip().startswith("//"))


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    # The name in Rust can differ from the package's name: rustls-webpki is webpki.
    libraries = {
        package["name"]: target["name"]
        for package in metadata["packages"]
        for target in package["targets"]
        if {"lib", "proc-macro", "rlib"} & set(target["kind"])
    }
    packages = [package for package in metadata["packages"] if package["id"] in metadata["workspace_members"]]
    findings, taken = [], set()
    for package in packages:
        for dependency in package["dependencies"]:
            taken.add(dependency["name"])
            kind = dependency["kind"] or "normal"
            name = dependency["rename"] or libraries.get(dependency["name"], dependency["name"])
            name = name.replace("-", "_")
            # As a path, or in a `use`: a word alone can stand in a text.
            used = re.search(rf"\b{name}::|\buse {name}\b", text_of(package, {kind}))
            if not used and dependency["name"] not in GENERATED.get(package["name"], ()):
                findings.append(f"{package['name']}: {kind} dependency {dependency['name']} is not used")
    workspace = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["workspace"].get("dependencies", {})
    findings += [f"no package uses {name} of [workspace.dependencies]" for name in workspace if name not in taken]
    print(*findings, f"{len(findings)} unused dependencies", sep="\n")
    return bool(findings)


raise SystemExit(main())
