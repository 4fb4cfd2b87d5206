#!/bin/bash
# How long does a cluster of three keep its clients waiting when a node goes, for each way to go?
# Measured by our own client library in a process of its own: 16 writes of 4 KiB in flight, over an
# image that touches every placement group, so each node is primary of a third of them.
#
#   bench/stalls.sh BUILD_DIR [ROUNDS]
#
# The last line is JSON: for each way the longest times without any answer, in ms, round by round.
. "$(dirname "$0")/../tests/process/lib.sh"
rounds=${2:-3}
stall=$build/bench/bench_client_stall
need jq
[ -x "$stall" ] || skip "no bench/bench_client_stall"

demo_start --size 4G
admin=$(of 0 admin)
"$skerry" --admin "$admin" image create vol 256M >/dev/null

leader() { # index of the node that leads
    local name
    name=$("$skerry" --admin "$admin" -o json status | jq -r '.raft.leader_name // empty')
    case $name in n1) echo 0 ;; n2) echo 1 ;; n3) echo 2 ;; *) fail "no leader" ;; esac
}

whole_everywhere() {
    local i
    for i in 0 1 2; do is_whole $i || return 1; done
}

# measure WAY: prints the longest gap in ms.
measure() {
    local way=$1 victim pid other rc=0
    until_true 60 whole_everywhere || fail "$way: not whole before"
    sleep 1
    victim=$(leader)
    case $way in killed_follower | paused_follower | stopped_follower) victim=$(((victim + 1) % 3)) ;; esac
    other=$(((victim + 1) % 3))
    pid=$(node_pid "$(of "$victim" dir)")
    # Its socket to the cluster goes to a node that stays.
    "$stall" --write --dir "$(of $other dir)" --image vol --journal "$dir/journal" --seconds 9 --depth 16 \
        --blocks 16384 --drain 60 >"$dir/write.out" 2>"$dir/write.log" &
    local writer=$!
    pids+=("$writer")
    sleep 3
    case $way in
    killed_*) kill -KILL "$pid" ;;
    paused_*) kill -STOP "$pid" ;;
    stopped_*) kill -TERM "$pid" ;;
    esac
    wait $writer || rc=$?
    [ $rc = 0 ] || { cat "$dir/write.out" "$dir/write.log" >&2; fail "$way: the writer ended with $rc"; }
    case $way in
    paused_*) kill -CONT "$pid"; sleep 3; kill -0 "$pid" 2>/dev/null && kill -KILL "$pid" ;;
    esac
    until_true 12 test ! -e "/proc/$pid/fd/0" || fail "$way: the node did not end"
    node_restart "$victim"
    jq -r '.gap_max_ms' "$dir/write.out"
}

declare -A gaps
ways="killed_follower killed_leader paused_follower paused_leader stopped_follower stopped_leader"
for round in $(seq "$rounds"); do
    for way in $ways; do
        gap=$(measure "$way")
        echo "round $round: $way: $gap ms"
        gaps[$way]="${gaps[$way]:+${gaps[$way]}, }$gap"
    done
done
until_true 60 whole_everywhere || fail "not whole in the end"
timeout 300 "$stall" --verify --dir "$(of 1 dir)" --image vol --journal "$dir/journal" >"$dir/verify.out" ||
    fail "an acknowledged write is missing"
demo_stop
line=""
for way in $ways; do line="$line${line:+, }\"${way}_ms\": [${gaps[$way]}]"; done
echo "{\"bench\": \"stalls\", \"depth\": 16, $line, \"verified\": true}"
