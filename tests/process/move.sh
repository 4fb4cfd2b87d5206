#!/bin/bash
# A disk is added to one of three hosts: placement groups move to it until each disk has its share,
# no group ever has two copies on one host, the old copies go, and the data stays what it was, under
# load and with a node killed in the middle.
#
#   tests/process/move.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need jq fio qemu-img

demo_start --size 2G
cli() { "$skerry" --admin "$(of 0 admin)" "$@"; }
cli image create kept 256M >/dev/null
cli image create busy 64M >/dev/null
head -c 256M /dev/urandom >"$dir/data"
qemu-img convert -n -f raw -O raw "$dir/data" "$(of 0 nbd)/kept"

(cd "$dir" && exec fio --name=verify --ioengine=nbd --uri="$(of 0 nbd)/busy" --rw=randwrite --bs=4k --iodepth=8 \
    --size=64M --time_based --runtime=25 --verify=crc32c --verify_backlog=256 --verify_fatal=1 --verify_state_save=0 \
    --output-format=json --output="$dir/fio.json") >"$dir/fio.out" 2>&1 &
fio_pid=$!
pids+=("$fio_pid")
sleep 1
"$skerry" --admin "$(of 1 admin)" disk add "$dir/extra" --size 2G >/dev/null || fail "disk add"

# pg rows of the state: [epoch, primary, in sync, ..., target]
placed() {
    cli meta dump | jq -e '.pg | map(select((.in_sync | sort) != (.target | sort))) | length == 0'
}
until_true 60 placed || { cli meta dump | jq -c '.pg[0:4]'; fail "placement groups do not move to the new disk"; }
echo "moved after $SECONDS s"
node_kill 1
sleep 1
node_restart 1
until_true 60 is_whole 0 || fail "not whole after a node was killed"
rc=0
wait $fio_pid || rc=$?
[ $rc = 0 ] || { cat "$dir/fio.out" >&2; fail "fio ended with $rc"; }
until_true 60 placed || fail "not placed in the end"

count() { cli -o json osd list | jq -r ".[] | select(.id == $1) | .pgs"; }
[ "$(count 4)" -ge 24 ] || { cli osd list; fail "the new disk of two on its host has $(count 4) of 64 groups"; }
[ "$(count 1)" = 64 ] && [ "$(count 3)" = 64 ] || { cli osd list; fail "copies left the other hosts"; }
# Each host has every group once: the old copies of what moved are gone.
used() { "$skerry" --admin "$(of 1 admin)" -o json osd list | jq '[.[] | select(.id == 2 or .id == 4) | .used_bytes] | add'; }
gone() { [ "$(used)" -le $((340 << 20)) ]; }
until_true 60 gone || { "$skerry" --admin "$(of 1 admin)" osd list; fail "what moved away still takes room: $(used) bytes"; }
qemu-img compare -q -f raw -F raw "$dir/data" "$(of 2 nbd)/kept" || fail "other data after the move"
cli osd list
demo_stop
