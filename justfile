# Everyday commands. `just` lists them; `just ci` runs the checks before a change lands.

# List the commands
default:
    @just --list

# Simulated TDX platform, KMS and a first CVM in one process
sandbox *args:
    cargo run -p kms-sandbox -- {{args}}

# All tests, after installing the programs that they call
test *args:
    bash tests/run {{args}}

# Format, then lint with warnings as errors
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets --locked -- -D warnings

# API documentation, warnings as errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Benchmarks; docs/performance.md explains the results
bench *args:
    cargo bench -p cvm-kms {{args}}

# Run one fuzz target for ten minutes (needs a nightly toolchain and cargo-fuzz)
fuzz target seconds="600":
    mkdir -p fuzz/corpus-local/{{target}}
    cargo +nightly fuzz run {{target}} fuzz/corpus-local/{{target}} fuzz/corpus/{{target}} -- -max_total_time={{seconds}} -rss_limit_mb=2048

# Floods and faults against a release build, on loopback, within five minutes; arguments choose cases
attack *cases:
    cargo bench -p cvm-kms --bench attack -- {{cases}}

# The same within a minute, as CI does
attack-quick:
    cargo bench -p cvm-kms --bench attack -- --quick

# The mixed load of `just attack` for longer: memory and descriptors must not grow
soak seconds="120":
    cargo bench -p cvm-kms --bench attack -- --seconds={{seconds}} soak

# `kill -9` under load for longer: every released key must have its line in the audit log
kills seconds="120":
    cargo bench -p cvm-kms --bench attack -- --seconds={{seconds}} kill

# A fleet with a seed of faults for ten minutes: no wrong key, no release after a freeze, whole audit logs (--seed=N --minutes=N --nodes=N; --figures measures freezes)
chaos *args:
    cargo bench -p cvm-kms --bench chaos -- {{args}}

# Run every fuzz target for some minutes (needs cargo-fuzz; the stable compiler is enough); fails on a finding
fuzz-all minutes:
    fuzz/all.sh {{minutes}}

# Build `kms` twice in different directories and compare; with a revision and a file, compare those with the file too
reproduce *args:
    build/reproduce.sh {{args}}

# The parts of `kms` as a CycloneDX document: target/kms.cdx.json
sbom:
    build/sbom.sh

# Licences, sources, bans
deny:
    cargo deny check

# All checks of CI
ci:
    bash .ci/run
