#!/usr/bin/env bash
# Everything that must hold before a change lands, stage by stage.
#
#   scripts/ci.sh test    all of it (`scripts/test`, `.ci/run`)
#   scripts/ci.sh deep    what takes longer: many kills, long property tests, dependency policy
#   scripts/ci.sh tools   only check that the tools are there
#
# Each stage has a budget in seconds. One that takes longer says so loudly and does not fail:
# machines differ, but a build that grows slow should be seen by whoever made it so. The first
# stage that fails ends the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Found before the PATH changes: the environment must not be made by its own Python.
PYTHON=$(command -v "${PYTHON:-python3}" || echo "${PYTHON:-python3}")
# The tests start nodes and workers with this environment's Python.
export PATH="$PWD/.venv/bin:$PATH"
export RUFF_CACHE_DIR=$PWD/.cache/ruff MYPY_CACHE_DIR=$PWD/.cache/mypy
export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
target=${CARGO_TARGET_DIR:-$PWD/target}
# One profile for everything, so that a dependency is compiled once.
profile=ci
export TIDEMILL_BIN=${TIDEMILL_BIN:-$target/$profile/tidemill}
# What an older tree left in a kept target directory, under another profile, is never tested.
export TIDEMILL_BENCH_PROFILE=$profile

log=$(mktemp)
rows=()
trap 'rm -f "$log"' EXIT

summary() {
  printf '\n%-16s %8s %8s  %s\n' stage seconds budget result
  for row in "${rows[@]}"; do
    IFS=' ' read -r name seconds budget result <<<"$row"
    printf '%-16s %8s %8s  %s\n' "$name" "$seconds" "$budget" "$result"
  done
  # What the test runners said last, together, so that nobody has to scroll.
  printf '\n'
  sed 's/\x1b\[[0-9;]*m//g' "$log" |
    grep -E '^ *Summary \[|^test result: .* [1-9][0-9]* passed|^=*.*[0-9]+ (passed|failed).* in [0-9.]+s' || true
}

# stage NAME BUDGET_SECONDS COMMAND...
stage() {
  local name=$1 budget=$2 begun=$SECONDS status seconds
  shift 2
  printf '\n==> %s\n' "$name"
  set +e
  (set -euo pipefail && "$@") < /dev/null 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  set -e
  seconds=$((SECONDS - begun))
  if ((status != 0)); then
    rows+=("$name $seconds $budget FAILED")
    summary
    printf '\nci: the stage "%s" failed with %s; nothing after it was run\n' "$name" "$status" >&2
    exit 1
  fi
  if ((seconds > budget)); then
    printf '\n!!! %s took %s s, its budget is %s s !!!\n' "$name" "$seconds" "$budget" >&2
    rows+=("$name $seconds $budget OVER-BUDGET")
  else
    rows+=("$name $seconds $budget ok")
  fi
  printf '<== %s: %s s\n' "$name" "$seconds"
}

tools() {
  if ! command -v cargo > /dev/null; then
    printf '%s\n' \
      'There is no Rust toolchain: `cargo` is not on the PATH.' \
      'Get one from https://rustup.rs (or your system'\''s packages, Rust 1.95 or later), open a new' \
      'shell so that `cargo --version` answers, and run this again.' >&2
    return 1
  fi
  if [[ ${1:-} != build ]]; then
    cargo fmt --version > /dev/null 2>&1 && cargo clippy --version > /dev/null 2>&1 || {
      echo 'rustfmt or clippy is missing: run `rustup component add rustfmt clippy`.' >&2
      return 1
    }
  fi
  if ! command -v cc > /dev/null; then
    echo 'There is no linker: `cc` is not on the PATH. On Debian: `apt-get install gcc libc6-dev`.' >&2
    return 1
  fi
  if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    echo "Python 3.11 or later is needed; \`$PYTHON\` is not. Set PYTHON=/path/to/python3.11." >&2
    return 1
  fi
  echo "$(cargo --version), $("$PYTHON" --version)"
}

build() {
  cargo build --profile $profile --workspace --all-targets --locked
}

lint() {
  cargo clippy --profile $profile --workspace --all-targets --locked -- -D warnings
}

docs() {
  RUSTDOCFLAGS='-D warnings' cargo doc --profile $profile --workspace --no-deps --locked
}

tests() {
  if cargo nextest --version > /dev/null 2>&1; then
    cargo nextest run --cargo-profile $profile --workspace --locked --no-fail-fast "$@"
  else
    cargo test --profile $profile --workspace --locked --lib --bins --tests "$@"
  fi
}

doc_tests() {
  cargo test --profile $profile --workspace --locked --doc
}

# Functions in Rust are a workspace of their own: their crate and the tests' components, here as
# programs of this machine.
guests() {
  CARGO_TARGET_DIR=$(realpath -m "$target/guests")
  export CARGO_TARGET_DIR
  cd sdk/rust
  cargo fmt --all --check
  cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
  cargo test --workspace --all-features --locked
}

# The SDK's own settings hold for every Python file here.
sdk_lint() {
  ruff check --config sdk/python/pyproject.toml sdk/python examples scripts bench crates
  ruff format --check --config sdk/python/pyproject.toml sdk/python examples scripts bench crates
}

sdk_types() {
  (cd sdk/python && mypy)
  (cd scripts && mypy --strict --python-version 3.11 ./*.py)
  (cd examples/reviews && mypy --strict --python-version 3.11 ./*.py)
  (cd examples/retwis && MYPYPATH=../reviews mypy --strict --python-version 3.11 ./*.py)
  (cd examples/wasm && MYPYPATH=../reviews mypy --strict --python-version 3.11 ./*.py)
  (cd bench && mypy --strict --python-version 3.11 ./*.py)
}

sdk_tests() {
  (cd sdk/python && python -m pytest -q tests)
}

# The same SDK against a real node.
sdk_node() {
  (cd sdk/python && python -m pytest -q tests_node)
}

example_tests() {
  python -m pytest -q examples scripts bench
}

policy() {
  if ! command -v cargo-deny > /dev/null; then
    cargo install --locked cargo-deny
  fi
  cargo deny --all-features check licenses bans sources
}

case ${1:-test} in
  tools) tools "${2:-}" ;;
  test)
    stage tools 10 tools
    stage environment 90 "$PYTHON" scripts/bootstrap.py run test
    stage format 30 cargo fmt --all --check
    stage build 1020 build
    stage lint 300 lint
    stage docs 90 docs
    stage tests 420 tests
    stage doc-tests 60 doc_tests
    stage guests 240 guests
    stage sdk-lint 15 sdk_lint
    stage sdk-types 45 sdk_types
    stage sdk-tests 30 sdk_tests
    stage sdk-node 90 sdk_node
    stage examples 60 example_tests
    summary
    ;;
  deep)
    export TIDEMILL_KILLS=${TIDEMILL_KILLS:-200} TIDEMILL_LEAKS=${TIDEMILL_LEAKS:-10} PROPTEST_CASES=${PROPTEST_CASES:-10000}
    export TIDEMILL_FLIPS=${TIDEMILL_FLIPS:-3000} TIDEMILL_TEARS=${TIDEMILL_TEARS:-2000}
    export TIDEMILL_REDIS_KILLS=${TIDEMILL_REDIS_KILLS:-500} TIDEMILL_CONNECTIONS=${TIDEMILL_CONNECTIONS:-10000}
    export TIDEMILL_DEPLOYS=${TIDEMILL_DEPLOYS:-10000} TIDEMILL_HUGE_MIB=${TIDEMILL_HUGE_MIB:-1024}
    export TIDEMILL_SEEDS=${TIDEMILL_SEEDS:-20000} TIDEMILL_HISTORIES=${TIDEMILL_HISTORIES:-200000}
    # Minutes of hostile bytes, and others each time; a failure prints its seed.
    export TIDEMILL_FUZZ_CASES=${TIDEMILL_FUZZ_CASES:-4000000} TIDEMILL_FUZZ_SEED=${TIDEMILL_FUZZ_SEED:-$RANDOM}
    # Components in Python and Rust are built, which takes what other registries have.
    export TIDEMILL_GUESTS=${TIDEMILL_GUESTS:-1}
    # ioredis comes from the registry of npm, where there is one to fetch it.
    if command -v npm > /dev/null && command -v node > /dev/null; then
      export TIDEMILL_NPM=${TIDEMILL_NPM:-1}
    fi
    stage tools 10 tools
    stage environment 90 "$PYTHON" scripts/bootstrap.py run test
    stage build 1020 build
    stage tests 7200 tests
    stage sdk-tests 600 sdk_tests
    stage sdk-node 600 sdk_node
    stage examples 600 example_tests
    stage policy 900 policy
    summary
    ;;
  *)
    echo "usage: scripts/ci.sh test | deep | tools" >&2
    exit 2
    ;;
esac
