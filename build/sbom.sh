#!/usr/bin/env bash
# Lists what `kms` is made of, as a CycloneDX document in JSON: `build/sbom.sh [FILE]` [default: target/kms.cdx.json]. The list
# is the same for the same commit: it has no path of this machine and no random number. It needs cargo-cyclonedx.
set -euo pipefail
cd "$(dirname "$0")/.."
file=${1:-target/kms.cdx.json}

if ! cargo cyclonedx --version >/dev/null 2>&1; then
  echo "build/sbom.sh: cargo-cyclonedx is missing: cargo install --locked cargo-cyclonedx@0.5.9" >&2
  exit 1
fi
mkdir -p "$(dirname "$file")"
name=.sbom-$$
trap 'find . -path ./target -prune -o -name "$name.json" -exec rm -f {} +' EXIT
# It writes one file beside each Cargo.toml of the workspace; the one of `kms` is in the root.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
cargo cyclonedx --quiet --manifest-path Cargo.toml --format json --spec-version 1.5 \
  --target x86_64-unknown-linux-gnu --no-build-deps --override-filename "$name"
# It names the crates of this repository by their path.
sed "s#file://$PWD#file:///src#g" "$name.json" >"$file"
echo "$file"
