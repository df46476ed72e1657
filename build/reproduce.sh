#!/usr/bin/env bash
# Builds `kms` twice, in two directories that share nothing, and compares the bytes: `build/reproduce.sh [REVISION]`. Ends with the
# digest that `GET /attestation.json` states as `program_sha256`. With an argument after the revision, that file must be equal too:
#
#   build/reproduce.sh v1.2.0 ./kms-from-the-release
set -euo pipefail
cd "$(dirname "$0")/.."

revision=$(git rev-parse --verify "${1:-HEAD}^{commit}")
released=${2:-}
[ -z "$released" ] || [ -r "$released" ] || {
  echo "build/reproduce.sh: cannot read $released" >&2
  exit 2
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

digest() { sha256sum "$1" | cut -d ' ' -f 1; }

digests=()
for directory in "$work/a" "$work/another-place/b"; do
  mkdir -p "$directory"
  git archive "$revision" | tar -x -C "$directory"
  echo "building $revision in $directory" >&2
  program=$(env -u CARGO_TARGET_DIR GIT_REV="$revision" bash "$directory/build/release.sh" kms)
  digests+=("$(digest "$program")")
  [ ${#digests[@]} -gt 1 ] || cp "$program" "$work/first"
  # The second build shall find nothing of the first.
  [ ${#digests[@]} -gt 1 ] || rm -rf "$directory"
done

echo "first   ${digests[0]}"
echo "second  ${digests[1]}"
if [ "${digests[0]}" != "${digests[1]}" ]; then
  cp "$work/first" kms.first && cp "$program" kms.second
  echo "NOT REPRODUCIBLE: compare kms.first with kms.second, for example with diffoscope" >&2
  exit 1
fi
if [ -n "$released" ]; then
  echo "given   $(digest "$released")"
  if [ "$(digest "$released")" != "${digests[0]}" ]; then
    echo "NOT EQUAL: $released is not built from $revision with this compiler ($(rustc --version); $(cc --version | head -n 1))" >&2
    exit 1
  fi
fi
echo "reproducible: kms of $revision has SHA-256 ${digests[0]} ($(rustc --version))"
