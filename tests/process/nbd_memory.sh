#!/bin/sh
# Real NBD clients against the gateway alone, over images in memory that answer in a shuffled order.
#
#   tests/process/nbd_memory.sh BUILD_DIR
#
# Exit 0: all is well; 77: a client is not installed.
set -eu

build=${1:?"usage: $0 BUILD_DIR"}
server=$build/bench/bench_gw_nbd_memory
for tool in nbdinfo nbdcopy qemu-img qemu-io fio cmp timeout; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 77; }
done

dir=$(mktemp -d)
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

run() { timeout 120 "$@"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
says() { # TEXT COMMAND...: the command's output has the text
    text=$1; shift
    run "$@" >"$dir/out" 2>&1 || true
    grep -q -- "$text" "$dir/out" || { cat "$dir/out" >&2; fail "no '$text' from: $*"; }
}

"$server" --unix "$dir/sock" --size 64M --memory 8M >"$dir/log" 2>"$dir/err" &
pid=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
    grep -q '^port ' "$dir/log" && break
    sleep 0.2
done
port=$(sed -n 's/^port //p' "$dir/log")
[ -n "$port" ] || { cat "$dir/err" >&2; fail "the server does not listen"; }
uri=nbd://127.0.0.1:$port
unix="nbd+unix:///disk?socket=$dir/sock"

# Negotiation.
says 'export-size: 67108864' nbdinfo "$uri/disk"
says 'can_multi_conn: true' nbdinfo "$uri/disk"
says 'block_size_maximum: 33554432' nbdinfo "$uri/disk"
says 'export="second"' nbdinfo --list "$uri"
says 'export-size: 67108864' nbdinfo "$unix"
says 'error to opt_go' nbdinfo "$uri/"
says 'error to opt_go' nbdinfo "$uri/unknown"
says 'virtual size: 64 MiB' qemu-img info "$uri/disk"

# Whole images, with requests up to 32 MiB, over one connection and eight.
head -c 64M /dev/urandom >"$dir/random"
run nbdcopy "$dir/random" "$uri/disk"
run nbdcopy "$uri/disk" "$dir/copy"
cmp "$dir/random" "$dir/copy" || fail "nbdcopy: other data came back"
run qemu-img convert -n -f raw -O raw "$dir/random" "$uri/second"
run qemu-img compare -f raw -F raw "$dir/random" "$uri/second" >/dev/null ||
    fail "qemu-img: other data came back"
run nbdcopy --connections 8 --requests 64 --request-size 33554432 "$uri/disk" "$uri/second"
run nbdcopy "$unix" "$dir/copy"
cmp "$dir/random" "$dir/copy" || fail "the unix socket gives other data"

# Bytes at odd places, zeros, discard.
run qemu-io -f raw "$uri/disk" -c 'write -P 0x11 0 1M' -c 'write -P 0x22 4095 3' \
    -c 'write -P 0x33 131071 131074' -c 'read -P 0x11 0 4095' -c 'read -P 0x22 4095 3' \
    -c 'read -P 0x11 4098 126973' -c 'read -P 0x33 131071 131074' -c 'read -P 0x11 262145 1000' \
    -c 'write -z 8192 8192' -c 'read -P 0 8192 8192' -c 'discard 512k 64k' \
    -c 'read -P 0 512k 64k' -c 'write -P 0x44 30M 31M' -c 'read -P 0x44 30M 31M' \
    -c 'write -f -P 0x55 63M 1M' -c 'flush' -c 'read -P 0x55 63M 1M' >"$dir/out" 2>&1 ||
    { cat "$dir/out" >&2; fail "qemu-io"; }
grep -q 'verification failed' "$dir/out" && { cat "$dir/out" >&2; fail "qemu-io verification"; }

# Verified random load, at depth, from several connections.
for blocks in --bs=4k --bsrange=512-200k; do
    run fio --name=verify --ioengine=nbd --uri="$uri/second" --rw=randwrite "$blocks" \
        --blockalign=512 --iodepth=64 --size=32M --verify=crc32c --verify_fatal=1 \
        --randseed=7 --minimal >"$dir/out" 2>&1 || { cat "$dir/out" >&2; fail "fio $blocks"; }
done

# Clients that come and go, and one that dies in the middle of a request.
jobs=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    timeout 0.1 nbdcopy "$uri/disk" /dev/null 2>/dev/null &
    jobs="$jobs $!"
done
for job in $jobs; do wait "$job" || true; done
sleep 0.2 # the server hears of the last one's end
says 'export-size: 67108864' nbdinfo "$uri/disk"

kill "$pid"
wait "$pid" || { cat "$dir/err" >&2; fail "the server did not end well"; }
pid=
grep -q '"errors_total": 0' "$dir/log" || { cat "$dir/log" >&2; fail "a request was refused"; }
grep -q '"memory_bytes_now": 0' "$dir/log" || { cat "$dir/log" >&2; fail "memory is still held"; }
tail -n 1 "$dir/log"
