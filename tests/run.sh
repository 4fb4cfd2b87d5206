#!/bin/bash
# Every test there is. Installs what they need (as root or with sudo), builds, runs.
#
#   tests/run.sh [STAGE...]     stages: static unit tsan process sim fuzz; without: all of them
#
# The last line is `N passed, N failed`; exit 0 only when something passed and nothing failed.
# A test that ends with 77 could not be run here: it is named, and counts as neither.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
. deploy/packages.sh

stages=${*:-static unit tsan process sim fuzz}
jobs=$(nproc)
passed=0 failed=0
logs=$(mktemp -d "${TMPDIR:-/tmp}/skerry-tests-XXXXXX")
aside_pid=
trap '[ -z "$aside_pid" ] || kill "$aside_pid" 2>/dev/null; rm -rf "$logs"' EXIT
trap 'exit 130' INT TERM

wanted() { case " $stages " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
headline() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
pass() { passed=$((passed + 1)); printf 'pass     %s\n' "$*"; }
fail() { failed=$((failed + 1)); printf 'FAILED   %s\n' "$*"; }

# try NAME SECONDS COMMAND...: one test.
try() {
    local name=$1 limit=$2 log rc=0 begin=$SECONDS
    shift 2
    log=$logs/$(tr -c 'A-Za-z0-9\n' _ <<<"$name").log
    timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null || rc=$?
    result "$name" $rc "$log" "$begin"
}

# aside NAME SECONDS COMMAND...: one test that mostly waits, while others run; joined by its NAME.
aside() {
    local name=$1 limit=$2 log
    shift 2
    log=$logs/$(tr -c 'A-Za-z0-9\n' _ <<<"$name").log
    timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null &
    aside_pid=$! aside_begin=$SECONDS aside_log=$log
}
join() {
    local rc=0
    wait "$aside_pid" || rc=$?
    aside_pid=
    result "$1" $rc "$aside_log" "$aside_begin"
}

result() {
    local name=$1 rc=$2 log=$3 begin=$4
    case $rc in
    0) pass "$name ($((SECONDS - begin)) s) $(tail -n 1 "$log" | grep -a 'kills;\|ready after\|^{' || true)" ;;
    77) printf 'not run  %s: %s\n' "$name" "$(tail -n 1 "$log")" ;;
    *)
        fail "$name (exit $rc)"
        tail -n 40 "$log" | sed 's/^/    /'
        ;;
    esac
}

# build DIR TARGETS OPTION...: configure and build; a failure is a failed test.
build() {
    local to=$1 targets=$2
    shift 2
    # shellcheck disable=SC2086
    if cmake -G Ninja -S . -B "$to" "$@" >"$logs/build" 2>&1 && ninja -C "$to" $targets >>"$logs/build" 2>&1; then
        return 0
    fi
    fail "build of $to"
    grep -a -E 'error|warning|FAILED|undefined' "$logs/build" | head -n 30 | sed 's/^/    /'
    return 1
}

# unit DIR [NAMES [BUT]]: the unit tests built there, or those that match, without those that match BUT.
unit() {
    local to=$1 pattern=${2:-.} but=${3:-^$} line name
    while read -r line; do
        name=$(sed -n 's/.*Test *#[0-9]*: \([^ ]*\) .*/\1/p' <<<"$line")
        [ -n "$name" ] || continue
        case $line in
        *Passed*) pass "$to $name" ;;
        *Skipped*) printf 'not run  %s %s\n' "$to" "$name" ;;
        *)
            fail "$to $name"
            sed -n "/ Test: $name\$/,/^Test time/p" "$to/Testing/Temporary/LastTest.log" | grep -av '\[ RUN \|\[       OK' |
                tail -n 40 | sed 's/^/    /'
            ;;
        esac
    done < <(cd "$to" && ctest -j "$jobs" --timeout 300 -R "$pattern" -E "$but" 2>&1 | grep -a 'Test *#')
}

export ASAN_OPTIONS=detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1

# shellcheck disable=SC2086
packages_install "what the tests need" $PACKAGES_BUILD $PACKAGES_SHOW $PACKAGES_TEST || fail "packages"

plain=0
if wanted static || wanted unit || wanted process || wanted sim; then
    headline "plain build"
    build build "" && plain=1
fi

if wanted static; then
    headline "the tree itself"
    for check in tests/*.py; do
        [ ! -e "$check" ] || try "$check" 120 python3 "$check" .
    done
    [ ! -e tests/purity.sh ] || try "tests/purity.sh" 120 tests/purity.sh build
    [ $plain = 0 ] || try "docs/reference/cli.md is what the program says" 10 \
        bash -c 'diff <(build/skerry help --reference) docs/reference/cli.md'
    # shellcheck disable=SC2016
    try "nothing is switched off or left to do" 10 bash -c \
        '! grep -rnE "TO''DO|FIX''ME|-W''no-|#i''f 0" src tests bench CMakeLists.txt'
fi

if wanted unit || wanted process; then
    headline "build with AddressSanitizer and UndefinedBehaviorSanitizer"
    asan=0
    build build-asan "" "-DSKERRY_SANITIZE=address;undefined" && asan=1
fi
if wanted unit && [ "$asan" = 1 ]; then
    headline "unit tests"
    unit build-asan . '^test_store_mutants$'
    [ $plain = 0 ] || unit build '^test_store_mutants$' # stores that are wrong on purpose
fi

if wanted process; then
    headline "process tests"
    if [ "$asan" = 1 ]; then
        aside "scrub and discard" 500 tests/process/scrub.sh build-asan
        try "a cluster by hand" 240 tests/process/by_hand.sh build-asan
        try "bad input" 240 tests/process/bad_input.sh build-asan
        try "the store tool" 240 tests/process/store_tool.sh build-asan
        try "without io_uring" 240 tests/process/without_uring.sh build-asan
        [ ! -e build-asan/bench/bench_gw_nbd_memory ] ||
            try "real NBD clients" 300 tests/process/nbd_memory.sh build-asan
        join "scrub and discard"
    fi
    if [ $plain = 1 ]; then
        try "the demo as an ordinary user" 120 tests/process/demo_user.sh build
        try "no room" 240 tests/process/full.sh build
        try "a disk is added" 240 tests/process/move.sh build
        try "other nodes killed under fio" 240 tests/process/kill_under_fio.sh build 40
        try "the served node killed under fio" 240 tests/process/kill_served_node.sh build 40
        try "all nodes killed at once" 240 tests/process/kill_all.sh build
    fi
fi

if wanted sim; then
    headline "simulator"
    # campaign NAME SECONDS BUILD_DIR OPTION...: many seeds, one test; its last line is its figures.
    campaign() {
        local name=$1 limit=$2 to=$3
        shift 3
        try "$name" "$limit" "$to/tests/sim/run" "$@" --jobs "$jobs"
    }
    seeds=${SKERRY_SEEDS:-200}
    if [ $plain = 1 ]; then
        campaign "$seeds seeds" 900 build --from 1 --count "$seeds"
        campaign "5 seeds twice: the same trace" 300 build --from 1 --count 5 --twice
        campaign "seeds that found a bug" 300 build --regress tests/sim/regress
        campaign "every mutant is caught" 900 build --mutants
    fi
    if build build-ubsan simulator -DSKERRY_SANITIZE=undefined; then
        campaign "$((seeds / 2)) seeds, UBSan" 900 build-ubsan --from 1 --count "$((seeds / 2))"
    fi
    if build build-asan simulator "-DSKERRY_SANITIZE=address;undefined"; then
        campaign "30 seeds, ASan" 600 build-asan --from 1 --count 30
    fi
fi

if wanted tsan; then
    headline "ThreadSanitizer, for what crosses threads"
    # The other tests run in one thread.
    targets="test_io_uring test_io_contract test_io_uv test_io_uv_contract test_net_uring test_gw_http"
    if build build-tsan "skerry $targets" -DSKERRY_SANITIZE=thread; then
        unit build-tsan "^(${targets// /|})\$"
        try "a cluster by hand, under ThreadSanitizer" 240 tests/process/by_hand.sh build-tsan
    fi
fi

if wanted fuzz; then
    headline "fuzzers, ${SKERRY_FUZZ_SECONDS:-10} s each"
    fuzzers=$(ls tests/fuzz/fuzz_*.c 2>/dev/null | xargs -r -n 1 basename -s .c | tr '\n' ' ')
    if build build-fuzz "$fuzzers" -DCMAKE_C_COMPILER=clang-14 "-DSKERRY_SANITIZE=address;undefined" -DSKERRY_FUZZ=ON; then
        for fuzzer in $fuzzers; do
            try "$fuzzer" 90 "build-fuzz/tests/fuzz/$fuzzer" -max_total_time="${SKERRY_FUZZ_SECONDS:-10}" \
                -print_final_stats=1 -artifact_prefix="$logs/"
        done
    fi
fi

printf '\n'
echo "$passed passed, $failed failed"
[ $passed -gt 0 ] && [ $failed = 0 ]
