#!/bin/bash
# The unit tests that run in one thread, and seeds of the simulator, under valgrind's memcheck: no
# invalid access, no use of what was never set, nothing lost. Longer than a test run has time for.
#
#   tests/valgrind.sh BUILD_DIR [SEEDS]      a plain build
set -uo pipefail
build=$(cd "${1:?"usage: $0 BUILD_DIR [SEEDS]"}" && pwd)
seeds=${2:-3}
command -v valgrind >/dev/null || { echo "skipped: no valgrind"; exit 77; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0

check() { # NAME COMMAND...
    local name=$1 begin=$SECONDS
    shift
    if timeout 1800 valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        echo "pass     $name ($((SECONDS - begin)) s)"
    else
        failed=$((failed + 1))
        echo "FAILED   $name"
        tail -n 30 "$log" | sed 's/^/    /'
    fi
}

# Not those that start threads or io_uring: valgrind serialises the one and does not know the other.
for test in "$build"/tests/unit/test_*; do
    name=$(basename "$test")
    # libraft does not set the padding (up to 7 bytes) of a configuration that it encodes; these two
    # compare it, or its checksum.
    case $name in
    test_raft_message | test_raft_snapshot) continue ;;
    *_uring* | *_uv* | test_io_contract | test_gw_http | *_random | *_guard | *_contract | *_model | *_wear) continue ;;
    esac
    [ ! -x "$test" ] || check "$name" "$test"
done
for seed in $(seq "$seeds"); do
    check "seed $seed" "$build/tests/sim/run" "$seed"
done
echo
echo "$passed passed, $failed failed"
[ $passed -gt 0 ] && [ $failed = 0 ]
