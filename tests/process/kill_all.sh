#!/bin/bash
# All nodes killed at the same moment, under load, and started again: whatever was acknowledged is
# there, and the client goes on by itself.
#
#   tests/process/kill_all.sh BUILD_DIR [ROUNDS]
. "$(dirname "$0")/lib.sh"
rounds=${2:-2}
stall=$build/bench/bench_client_stall
need jq
[ -x "$stall" ] || skip "no bench/bench_client_stall"

demo_start --size 4G
"$skerry" --admin "$(of 0 admin)" image create vol 256M >/dev/null

all_whole() {
    local i
    for i in 0 1 2; do is_whole $i || return 1; done
}

for round in $(seq "$rounds"); do
    "$stall" --write --dir "$(of 0 dir)" --image vol --journal "$dir/journal" --seconds 12 --depth 16 \
        --blocks 16384 --drain 90 >"$dir/write.out" 2>"$dir/write.log" &
    write_pid=$!
    pids+=("$write_pid")
    sleep 4
    # One kill for all three: they die within a moment of each other.
    kill -KILL "$(node_pid "$(of 0 dir)")" "$(node_pid "$(of 1 dir)")" "$(node_pid "$(of 2 dir)")"
    sleep 1
    for i in 0 1 2; do node_restart $i; done
    until_true 90 all_whole || { "$skerry" --admin "$(of 0 admin)" status >&2; fail "round $round: not whole 90 s after all nodes came back"; }
    rc=0
    wait $write_pid || rc=$?
    [ $rc = 0 ] || { cat "$dir/write.out" "$dir/write.log" >&2; fail "round $round: the writer ended with $rc"; }
    timeout 300 "$stall" --verify --dir "$(of 1 dir)" --image vol --journal "$dir/journal" >"$dir/verify.out" 2>"$dir/verify.log" ||
        { cat "$dir/verify.out" "$dir/verify.log" >&2; fail "round $round: an acknowledged write is missing"; }
    echo "round $round: 3 kills; $(tail -n 1 "$dir/write.out") $(tail -n 1 "$dir/verify.out")"
done
demo_stop
