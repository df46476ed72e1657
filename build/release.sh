#!/usr/bin/env bash
# Builds a program as it is released: `build/release.sh kms`. The same sources, compilers and linker give the same bytes, in
# whatever directory, because no path of this machine, no time and no name enters them. The path of the result is printed last.
#
#   GIT_REV           the revision that `kms --version` shows [default: that of the working tree]
#   CARGO_TARGET_DIR  where to build [default: target/reproducible]
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:?which program: kms, kmsctl or kms-simulator}
case $program in
kms) package=cvm-kms ;;
kmsctl | kms-simulator) package=$program ;;
*)
  echo "build/release.sh: there is no program $program: kms, kmsctl or kms-simulator" >&2
  exit 2
  ;;
esac

source=$PWD
target=${CARGO_TARGET_DIR:-$source/target/reproducible}
cargo=${CARGO_HOME:-$HOME/.cargo}
GIT_REV=${GIT_REV-$(git rev-parse HEAD 2>/dev/null || true)}

case "$source$target$cargo" in
*[[:space:]]*)
  echo "build/release.sh: the C compiler takes no path with spaces: build elsewhere" >&2
  exit 2
  ;;
esac

# The longer prefix last: the last that fits wins.
prefixes=("$cargo=/cargo" "$source=/src" "$target=/target")
rust=() c=()
for prefix in "${prefixes[@]}"; do
  rust+=("--remap-path-prefix=$prefix")
  c+=("-ffile-prefix-map=$prefix")
done

# Settings of the caller that change the bytes.
unset CARGO_BUILD_RUSTFLAGS CARGO_PROFILE_RELEASE_DEBUG CARGO_PROFILE_RELEASE_LTO CARGO_PROFILE_RELEASE_CODEGEN_UNITS
printf -v encoded '%s\x1f' "${rust[@]}"
export CARGO_ENCODED_RUSTFLAGS=${encoded%$'\x1f'}
export CFLAGS="${c[*]}" CXXFLAGS="${c[*]}" ASFLAGS=
export CARGO_TARGET_DIR=$target CARGO_INCREMENTAL=0 GIT_REV
export SOURCE_DATE_EPOCH=0 LC_ALL=C TZ=UTC

cargo build --release --locked --package "$package" --bin "$program" >&2
echo "$target/release/$program"
