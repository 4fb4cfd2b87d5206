#!/bin/bash
# Random lives of a store against a model, until there were so many boots.
#
#   tests/store_campaign.sh BUILD_DIR [BOOTS [FIRST_SEED]]      without: 10,000 boots, from seed 1
#
# The last line is one of JSON: boots, writes acked, copies by cleaning, laps of the ring, seconds. Exit 0 only when
# every object was right after each boot. A seed that fails is named: SEED=n repeats it.
#
# The other long runs of the store's tests: SWEEP=full BUILD_DIR/tests/unit/test_store_crash (every crash state of every
# short sequence), _sweep (five workloads) and _flip (every byte of the log).
set -uo pipefail
build=${1:?"usage: $0 BUILD_DIR [BOOTS [FIRST_SEED]]"}
log=$(mktemp "${TMPDIR:-/tmp}/skerry-store-XXXXXX")
trap 'rm -f "$log"' EXIT

BOOTS=${2:-10000} FIRST=${3:-1} "$build/tests/unit/test_store_random" >"$log" 2>&1
rc=$?
if [ $rc != 0 ]; then
    cat "$log"
    exit $rc
fi
grep -ao '^{.*}' "$log"
