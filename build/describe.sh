#!/usr/bin/env bash
# Describes a built program for its release, as JSON: `build/describe.sh PROGRAM FILE SBOM [IMAGE@sha256:…]…`. `kmsctl verify --release`
# compares a running KMS with it.
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:?which program} file=${2:?where it is} sbom=${3:?its list of parts}
shift 3
images=()
for image in "$@"; do
  [[ $image =~ ^[a-z0-9./:_-]+@sha256:[0-9a-f]{64}$ ]] || {
    echo "build/describe.sh: $image is not NAME@sha256:DIGEST" >&2
    exit 2
  }
  images+=("\"$image\"")
done

digest() { sha256sum "$1" | cut -d ' ' -f 1; }
text() { printf '%s' "$1" | tr -d '"\134[:cntrl:]'; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
cat <<JSON
{
  "version": 1,
  "program": "$program",
  "program_version": "$(text "$version")",
  "revision": "$(text "${GIT_REV:-$(git rev-parse HEAD)}")",
  "target": "$(rustc -vV | sed -n 's/^host: //p')",
  "sha256": "$(digest "$file")",
  "sbom_sha256": "$(digest "$sbom")",
  "rustc": "$(text "$(rustc --version)")",
  "cc": "$(text "$(cc --version | head -n 1)")",
  "images": [$(IFS=,; echo "${images[*]-}")]
}
JSON
