#!/bin/bash
# Verified random writes through the very node that is killed: between it and fio stands QEMU's
# block layer, which reconnects (Debian's fio does not). The node is started again on its ports.
#
#   tests/process/kill_served_node.sh BUILD_DIR [SECONDS]
. "$(dirname "$0")/lib.sh"
seconds=${2:-40}
need jq fio qemu-storage-daemon

demo_start --size 4G
"$skerry" --admin "$(of 0 admin)" image create vol 128M >/dev/null
port=$(of 0 nbd | sed 's/.*://')

qemu-storage-daemon \
    --blockdev driver=nbd,node-name=vol,server.type=inet,server.host=127.0.0.1,server.port="$port",export=vol,reconnect-delay=60 \
    --nbd-server addr.type=unix,addr.path="$dir/qsd.sock" \
    --export type=nbd,id=vol,node-name=vol,name=vol,writable=on >"$dir/qsd.out" 2>&1 &
pids+=($!)
until_true 20 test -S "$dir/qsd.sock" || fail "qemu-storage-daemon does not listen"

fio_start "nbd+unix:///vol?socket=$dir/qsd.sock" "$seconds"
sleep 2

end=$((SECONDS + seconds - 6))
kills=0
while [ $SECONDS -lt $end ] && kill -0 $fio_pid 2>/dev/null; do
    node_kill 0
    kills=$((kills + 1))
    sleep 1.5
    node_restart 0
    until_true 60 is_whole 1 || fail "not whole 60 s after node 1 came back"
    sleep 3
done
fio_end $kills
until_true 60 is_whole 0 || fail "not whole in the end"
kill "${pids[1]}"
demo_stop
