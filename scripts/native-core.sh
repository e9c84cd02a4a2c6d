# shellcheck shell=bash
# Sourced by the scripts that compile the native core without Node: test-native and fuzz.

export FLAGS='-std=c++20 -O1 -g -Wall -Wextra -Werror -DOPENSSL_SUPPRESS_DEPRECATED -D_FILE_OFFSET_BITS=64'
# Read by the scripts that source this. A finding ends the program.
# shellcheck disable=SC2034
sanitizers='-fsanitize=address,undefined -fno-sanitize-recover=all'
# Of clang++: what libFuzzer goes by, without its main().
# shellcheck disable=SC2034
fuzzed='-fsanitize=fuzzer-no-link'

# clang++ as Debian calls it; nothing when there is none.
find_clang() { command -v clang++ || command -v clang++-14 || true; }

# build_core COMPILER SANITIZERS DIRECTORY [PART...]: objects of the core, or of the parts of it named (native/PART). binding.cc and addon.cc talk to Node; everything else is the
# core. Compiled afresh: it takes seconds, and no stale object can pass.
build_core() {
  rm -rf "$3"
  mkdir -p "$3"
  local parts=("${@:4}")
  [ ${#parts[@]} -gt 0 ] || parts=(.)
  find "${parts[@]/#/native/}" -path "*/build" -prune -o -name '*.cc' ! -name binding.cc ! -name addon.cc -print0 | sort -z |
    COMPILER=$1 SANITIZERS=$2 DIRECTORY=$3 xargs -0 -n 1 -P "$(nproc)" sh -c \
      '$COMPILER $FLAGS $SANITIZERS -c -o "$DIRECTORY/$(echo "${1%.cc}" | tr / -).o" "$1"' sh
}

# link_core COMPILER SANITIZERS DIRECTORY PROGRAM SOURCE: a program of one source and the core in DIRECTORY.
link_core() {
  # shellcheck disable=SC2086
  "$1" $FLAGS $2 -o "$4" "$5" "$3"/*.o -lisal -l:libz.a -l:libzstd.a -l:libcrypto.a -ldl -pthread
}

# prove_sanitizers COMPILER SANITIZERS DIRECTORY: a program that faults on purpose, built as everything else is, must end with the
# sanitizer's own words. Otherwise every test below would pass for nothing.
prove_sanitizers() {
  local fault words
  # shellcheck disable=SC2086
  "$1" $FLAGS $2 -o "$3/sanitizer_probe" test/native/sanitizer_probe.cc -pthread
  for fault in address undefined thread; do
    case $2 in *"$fault"*) ;; *) continue ;; esac
    case $fault in
    address) words='AddressSanitizer: heap-buffer-overflow' ;;
    undefined) words='runtime error: signed integer overflow' ;;
    thread) words='ThreadSanitizer: data race' ;;
    esac
    if "$3/sanitizer_probe" "$fault" >"$3/sanitizer_probe.log" 2>&1 || ! grep -q "$words" "$3/sanitizer_probe.log"; then
      cat "$3/sanitizer_probe.log" >&2
      echo "the $fault sanitizer is not on: a fault on purpose did not end with \"$words\"" >&2
      return 1
    fi
    echo "sanitizer probe ($1 $fault): ok"
  done
}
