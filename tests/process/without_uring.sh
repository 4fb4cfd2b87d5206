#!/bin/bash
# A cluster without io_uring: because it was told so, and because the system refuses it.
#
#   tests/process/without_uring.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need jq qemu-img python3
no_io_uring=$(cd "$(dirname "$0")" && pwd)/no_io_uring.py

# holds_ring INDEX: that node has an io_uring.
holds_ring() {
    local fd
    for fd in "/proc/$(node_pid "$(of "$1" dir)")"/fd/*; do
        case $(readlink "$fd" || true) in *'[io_uring]') return 0 ;; esac
    done
    return 1
}

# copies_and_survives NAME: an image goes in; a node dies; it comes out at another, the same.
copies_and_survives() {
    "$skerry" --admin "$(of 0 admin)" image create "$1" 64M >/dev/null
    qemu-img convert -n -f raw -O raw "$dir/data" "$(of 0 nbd)/$1"
    qemu-img compare -q -f raw -F raw "$dir/data" "$(of 1 nbd)/$1" || fail "$1: another node reads other data"
    node_kill 0
    qemu-img compare -q -f raw -F raw "$dir/data" "$(of 2 nbd)/$1" || fail "$1: other data after a node died"
    qemu-img convert -n -f raw -O raw "$dir/again" "$(of 1 nbd)/$1"
    node_restart 0
    until_true 60 is_whole 1 || fail "$1: not whole again"
    qemu-img convert -f raw -O raw "$(of 0 nbd)/$1" "$dir/out"
    cmp "$dir/again" "$dir/out" || fail "$1: what was written while a node was dead came out otherwise"
}

for name in data again; do
    head -c 20M /dev/urandom >"$dir/$name"
    truncate -s 64M "$dir/$name"
done

refused 2 '--io takes' "$skerry" node --dir "$dir/none" --io poll
refused 2 '--io takes' "$skerry" demo --dir "$dir/none" --io poll
printf '[node]\nio = poll\n' >"$dir/node.conf"
refused 2 'io cannot be "poll"' "$skerry" node --dir "$dir/none" --config "$dir/node.conf"

# Told so.
demo_start --io uv --size 2G
for i in 0 1 2; do
    [ "$(jq -r ".nodes[$i].argv[-2:] | join(\" \")" "$dir/demo/demo.json")" = "--io uv" ] || fail "node $i was not told"
    ! holds_ring $i || fail "node $i was told to go over libuv and has an io_uring"
done
copies_and_survives told
! grep -h 'io_uring is refused' "$dir"/demo/*.log || fail "a node says that io_uring is refused, which nobody tried"
demo_stop
echo "--io uv: all is well"
rm -r "$dir/demo"

# Refused by the system. Where no such filter can be set, there is nothing more to show.
rc=0
python3 "$no_io_uring" true || rc=$?
[ $rc != 77 ] || skip "no seccomp filter can be set: only --io uv was tested"
[ $rc = 0 ] || fail "the filter ended with $rc"
allowed=$skerry
printf '#!/bin/sh\nexec python3 "%s" "%s" "$@"\n' "$no_io_uring" "$allowed" >"$dir/confined"
chmod +x "$dir/confined"
skerry=$dir/confined
demo_start --size 2G
skerry=$allowed
for i in 0 1 2; do
    [ "$(grep -c 'level=warn.*sub=io.*io_uring is refused.*error=EPERM' "$dir/demo/n$((i + 1)).log")" = 1 ] ||
        fail "node $i does not say once that io_uring is refused"
    ! holds_ring $i || fail "node $i has an io_uring all the same"
done
copies_and_survives refused
# The node that was started again was not confined: nodes of both kinds are one cluster.
if python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120)) < 0)'; then
    holds_ring 0 || fail "a node that may use io_uring does not"
fi
demo_stop
echo "io_uring refused: all is well"

# Who asks for io_uring and nothing else is told why not.
refused 1 'does not let us use io_uring' python3 "$no_io_uring" "$skerry" node --dir "$(of 0 dir)" --admin "$dir/a.sock" \
    --listen 127.0.0.1:0 --nbd off --io uring
printf '[node]\nio = uring\n' >"$dir/node.conf"
refused 1 'auto' python3 "$no_io_uring" "$skerry" node --dir "$(of 0 dir)" --admin "$dir/a.sock" \
    --listen 127.0.0.1:0 --nbd off --config "$dir/node.conf"
