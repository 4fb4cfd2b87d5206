#!/bin/bash
# The demo as an ordinary user with the usual 8 MiB of locked memory: ready in time, exactly the
# demo.json that is promised, an image through NBD, and nothing left behind.
#
#   tests/process/demo_user.sh BUILD_DIR [READY_SECONDS]
. "$(dirname "$0")/lib.sh"
limit=${2:-5}
need jq qemu-img setpriv prlimit

as_user=()
if [ "$(id -u)" = 0 ]; then
    as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups prlimit --memlock=8388608:8388608)
    chown 65534:65534 "$dir"
    chmod 755 "$dir"
    # The build may lie where only its owner may look.
    cp "$skerry" "$dir/skerry"
    skerry=$dir/skerry
fi
as_user=(env -u XDG_RUNTIME_DIR HOME="$dir" TMPDIR="$dir" "${as_user[@]}")
run() { "${as_user[@]}" "$@"; }

begin=$(date +%s.%N)
# Not by run(): $! is then the demo itself, not a shell around it.
"${as_user[@]}" "$skerry" demo --dir "$dir/demo" --size 2G >"$dir/demo.out" 2>&1 &
demo_pid=$!
pids+=("$demo_pid")
until_true 60 grep -qx ready "$dir/demo.out" || fail "the demo did not become ready"
took=$(echo "$(date +%s.%N) $begin" | awk '{ printf "%.2f", $1 - $2 }')
echo "ready after $took s"
grep -q 'disk of 2.00 GiB each' "$dir/demo.out" || fail "the demo does not say how large its disks are"
awk -v t="$took" -v l="$limit" 'BEGIN { exit !(t < l) }' || fail "ready after $took s, not $limit"

# demo.json is what the contract says: keys, forms, and argv that is the running command line.
jq -e '(keys | sort) == ["cluster", "nodes", "s3_key", "s3_secret", "version"]
    and (.nodes | length) == 3
    and all(.nodes[]; (keys | sort) == ["admin", "argv", "dir", "metrics", "name", "nbd", "nfs", "pid", "s3"]
        and (.nbd | test("^nbd://127\\.0\\.0\\.1:[0-9]+$")) and (.admin | startswith("/"))
        and (.argv | length) > 1)' "$dir/demo/demo.json" >/dev/null || fail "demo.json has another form"
for i in 0 1 2; do
    pid=$(of $i pid)
    [ "$(tr '\0' ' ' <"/proc/$pid/cmdline")" = "$(jq -r ".nodes[$i].argv | map(. + \" \") | add" "$dir/demo/demo.json")" ] ||
        fail "argv of node $i is not its command line"
    [ "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" = "$(stat -c %u "$dir")" ] || fail "node $i runs as another user"
    [ "$(stat -c %a "$(of $i admin)")" = 660 ] || fail "the admin socket of node $i is not 0660"
    [ "$(stat -c %a "$(of $i dir)")" = 700 ] || fail "the directory of node $i is not 0700"
done

admin=$(of 0 admin)
run "$skerry" --admin "$admin" status | grep -q '^writable  *yes' || fail "it is not writable"
run "$skerry" --admin "$admin" status | grep -q '^survives another failure  *yes' || fail "it would not survive"
run "$skerry" --admin "$admin" image create vol1 64M >/dev/null
head -c 20M /dev/urandom >"$dir/data"
truncate -s 64M "$dir/data"
qemu-img convert -n -f raw -O raw "$dir/data" "$(of 0 nbd)/vol1"
qemu-img compare -q -f raw -F raw "$dir/data" "$(of 2 nbd)/vol1" || fail "another node reads other data"
run "$skerry" --admin "$admin" -o json image list | jq -e '.[0].name == "vol1" and .[0].size_bytes == 67108864 and (.[0].id | type) == "string"' >/dev/null || fail "image list"
refused 4 'vol1' "$skerry" --admin "$admin" image create vol1 64M
grep -q 'why: ' "$dir/refused.out" && grep -q 'do: ' "$dir/refused.out" || fail "no word on why an image exists and what to do"
refused 6 'yes' "$skerry" --admin "$admin" image delete vol1
run "$skerry" --admin "$admin" image delete vol1 --yes >/dev/null
refused 3 'no image' "$skerry" --admin "$admin" image show vol1

# Another ordinary user may not use the socket (root may), nor this one a disk of root's.
if [ "$(id -u)" = 0 ]; then
    (umask 077 && truncate -s 128M "$dir/roots")
    refused 5 'the node runs as uid 65534' "$skerry" --admin "$admin" disk add "$dir/roots"
    chmod 755 "$dir/demo" "$dir/demo/n1" && chmod 777 "$admin"
    refused 5 'this socket is for' setpriv --reuid=65533 --regid=65533 --clear-groups "$skerry" --admin "$admin" status
    chmod 660 "$admin" && chmod 700 "$dir/demo/n1"
fi

nodes=$(jq -r '.nodes[].pid' "$dir/demo/demo.json")
begin=$(date +%s.%N)
kill -INT "$demo_pid"
rc=0
wait "$demo_pid" || rc=$?
echo "stopped after $(echo "$(date +%s.%N) $begin" | awk '{ printf "%.2f", $1 - $2 }') s"
[ $rc = 0 ] || fail "the demo ended with $rc"
for pid in $nodes; do [ ! -e "/proc/$pid" ] || fail "process $pid still runs"; done
[ ! -e "$dir/demo" ] || fail "the demo left its directory"
