#!/bin/bash
# No room: an OSD that is full, a host file system that is full under an OSD's sparse file, and one
# that is full under the Raft log. Each time a clear error, nothing lost, nobody crashes, and with
# room again all goes on.
#
#   tests/process/full.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need jq qemu-io qemu-img
[ "$(id -u)" = 0 ] || skip "needs root, to mount small file systems"

cli() { "$skerry" --admin "$(of 0 admin)" "$@"; }
status_of() { cli -o json status; }
io() { timeout 120 qemu-io -f raw "$@"; }

# ---- An OSD that is full ----

demo_start --size 256M
cli image create big 1G >/dev/null
cli image create small 8M >/dev/null
head -c 8M /dev/urandom >"$dir/kept"
qemu-img convert -n -f raw -O raw "$dir/kept" "$(of 0 nbd)/small"
rc=0
for mb in $(seq 0 16 1008); do
    io "$(of 0 nbd)/big" -c "write -P 0x5a ${mb}M 16M" >"$dir/io.out" 2>&1 || { rc=$?; break; }
done
[ $rc != 0 ] || fail "1 GiB fits into OSDs of 256 MiB"
grep -q 'No space left' "$dir/io.out" || { cat "$dir/io.out" >&2; fail "a full OSD is not said to be full"; }
[ "$mb" -ge 128 ] || fail "full after $mb MiB of 256"
status_of | jq -e '.osds.up == 3 and .writable' >/dev/null || fail "a full OSD is down"
status_of | jq -e '.health == "error" and any(.checks[]; .code == "FULL") and .local.osds_full == 1' >/dev/null ||
    { cli status; fail "status does not say that an OSD is full"; }
qemu-img compare -q -f raw -F raw "$dir/kept" "$(of 1 nbd)/small" || fail "other data on a full OSD"
io "$(of 1 nbd)/big" -c 'read -P 0x5a 0 16M' >"$dir/io.out" 2>&1 && ! grep -q 'verification failed' "$dir/io.out" ||
    fail "what was acknowledged before it was full is not there"
# What is there can be overwritten, and deleting makes room.
io "$(of 2 nbd)/big" -c 'write -P 0x11 0 16M' -c 'read -P 0x11 0 16M' >"$dir/io.out" 2>&1 && ! grep -q failed "$dir/io.out" ||
    { cat "$dir/io.out" >&2; fail "a full OSD does not take an overwrite"; }
cli image delete big --yes >/dev/null
cli image create next 128M >/dev/null
takes() { io "$(of 0 nbd)/next" -c 'write -P 0x22 0 64M'; }
until_true 60 takes || fail "deleting an image makes no room"
roomy_again() { status_of | jq -e '.health == "ok" and .local.used_bytes < .local.size_bytes / 2'; }
until_true 30 roomy_again ||
    { cli status; fail "status does not say that there is room again"; }
echo "a full OSD: refused after $mb MiB of 256, overwrites go on, a delete makes room"
demo_stop
rm -rf "$dir/demo"

# ---- The host's file system is full under one OSD ----

demo_start --size 1G
demo_stop
mv "$dir/demo/n3" "$dir/n3"
mkdir -m 700 "$dir/demo/n3"
mount -t tmpfs -o size=260m,mode=700 none "$dir/demo/n3"
mounts+=("$dir/demo/n3")
cp -a --sparse=always "$dir/n3/disk" "$dir/demo/n3/"
rm "$dir/n3/disk"
cp -a --sparse=never "$dir/n3/." "$dir/demo/n3/" # the log's segments are reserved in full
demo_start --size 1G
cli image create vol 512M >/dev/null
head -c 400M /dev/urandom >"$dir/data"
timeout 300 qemu-img convert -n -f raw -O raw "$dir/data" "$(of 0 nbd)/vol" || fail "a full file system under one OSD of three stops a client"
failed() { status_of | jq -e '[.osds.up, .writable] == [2, true]'; }
until_true 30 failed || { status_of; fail "the OSD without room is not down"; }
grep -q 'No space left on device' "$dir/demo/n3.log" || fail "n3 does not say that it found no room"
kill -0 "$(of 2 pid)" || fail "the node of the failed OSD is gone"
size=$(stat -c %s "$dir/data")
timeout 300 qemu-img dd -f raw -O raw bs=1M count=400 if="$(of 1 nbd)/vol" of="$dir/back" || fail "reading back"
cmp -n "$size" "$dir/data" "$dir/back" || fail "other data after an OSD found no room"
echo "a full file system under an OSD: that OSD failed, the node lives, the client noticed nothing"

# ---- … and under a Raft log ----

node_kill 2
rm -f "$dir/demo/n3/disk"
roomy() { [ "$(df --output=avail -m "$dir/demo/n3" | tail -n 1)" -ge 100 ]; }
until_true 20 roomy || fail "the blocks of a removed disk are not free"
node_restart 2
alive() { [ -n "$(node_pid "$(of 2 dir)")" ] && kill -0 "$(node_pid "$(of 2 dir)")" 2>/dev/null; }
answers() { "$skerry" --admin "$(of 2 admin)" -o json status | jq -e '.raft.leader != 0'; }
until_true 30 answers || fail "node 3 does not come back without its disk"
head -c 300M /dev/zero >"$dir/demo/n3/fill" 2>/dev/null || true
# More entries than a preallocated segment holds (8 MiB, at least 4 KiB an entry).
count=2300
# At the leader: a follower answers a command only with the next heartbeat, when it shows it too.
leader=$(status_of | jq -r '.raft.leader_name')
python3 - "$(of $((${leader#n} - 1)) admin)" $count <<'PY' || fail "a full file system under one Raft log stops the cluster"
import http.client, json, socket, sys
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX); self.sock.settimeout(20); self.sock.connect(sys.argv[1])
c = Unix("x")
for i in range(int(sys.argv[2])):
    c.request("POST", "/api/v1/images", json.dumps({"name": f"i{i}", "size_bytes": 1 << 20}))
    r = c.getresponse(); body = r.read()
    if r.status != 201: sys.exit(f"{r.status} {body}")
PY
status_of | jq -e '.writable' >/dev/null || fail "not writable with one full Raft log"
rm -f "$dir/demo/n3/fill"
grep 'level=\(error\|warn\).*\(No space\|room\|full\)' "$dir/demo/n3.log" | tail -n 1
if ! alive; then
    grep -q 'level=error.*sub=raft\|level=error.*sub=meta\|level=error.*sub=node' "$dir/demo/n3.log" || fail "n3 ended without a word"
    node_restart 2
fi
until_true 30 answers || fail "node 3 does not come back once there is room"
has_all() { "$skerry" --admin "$(of 2 admin)" -o json image list | jq -e --argjson n "$count" '[.[] | select(.name | test("^i[0-9]+$"))] | length == $n'; }
until_true 30 has_all || fail "node 3 does not catch up once there is room"
echo "a full file system under a Raft log: $count commands meanwhile, node 3 has them all"
demo_stop
