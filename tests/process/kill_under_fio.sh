#!/bin/bash
# Verified random writes through one node while the others are killed and started again in turn.
#
#   tests/process/kill_under_fio.sh BUILD_DIR [SECONDS]
. "$(dirname "$0")/lib.sh"
seconds=${2:-40}
need jq fio

demo_start --size 4G
admin=$(of 0 admin)
"$skerry" --admin "$admin" image create vol 128M >/dev/null

fio_start "$(of 0 nbd)/vol" "$seconds"
sleep 1

end=$((SECONDS + seconds - 4))
kills=0
while [ $SECONDS -lt $end ] && kill -0 $fio_pid 2>/dev/null; do
    victim=$((kills % 2 + 1))
    node_kill $victim
    kills=$((kills + 1))
    sleep 1.5
    node_restart $victim
    until_true 60 is_whole 0 || fail "not whole 60 s after node $((victim + 1)) came back"
    sleep 0.5
done
fio_end $kills
until_true 60 is_whole 0 || fail "not whole in the end"
demo_stop
