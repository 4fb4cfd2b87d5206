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

fio --name=verify --ioengine=nbd --uri="$(of 0 nbd)/vol" --rw=randwrite --bs=4k --iodepth=16 \
    --size=128M --time_based --runtime="$seconds" --verify=crc32c --verify_backlog=256 \
    --verify_fatal=1 --verify_state_save=0 --do_verify=1 --randrepeat=0 --output-format=json --output="$dir/fio.json" \
    >"$dir/fio.out" 2>&1 &
fio_pid=$!
pids+=("$fio_pid")
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
rc=0
wait $fio_pid || rc=$?
[ $rc = 0 ] || { cat "$dir/fio.out" >&2; fail "fio ended with $rc"; }

jq -e '.jobs[0] | .error == 0 and .read.total_ios > 0 and .write.total_ios > 0' "$dir/fio.json" >/dev/null ||
    fail "fio read nothing back, or met errors"
jq -r --arg kills $kills '.jobs[0] | "\($kills) kills; \(.write.total_ios) writes, \(.read.total_ios) verified reads, \(.error) errors; longest write \(.write.clat_ns.max / 1e6 | floor) ms"' "$dir/fio.json"
[ $kills -ge 2 ] || fail "only $kills kills"
until_true 60 is_whole 0 || fail "not whole in the end"
demo_stop
