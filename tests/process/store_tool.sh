#!/bin/bash
# The store commands, as somebody uses them who has a disk and no node: format, check, dump, verify;
# on a file, on a disk that a node wrote, on a device if there is one to be had, and after damage.
#
#   tests/process/store_tool.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need jq qemu-img python3 truncate

disk=$dir/disk
check() { "$skerry" -o json store check "$1"; }
# flip FILE BYTE: one bit of it.
flip() {
    python3 - "$1" "$2" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    byte = f.read(1)[0] ^ 1
    f.seek(int(sys.argv[2]))
    f.write(bytes([byte]))
PY
}
# code EXIT_CODE COMMAND...: it ends with that code; what it says is in $dir/said.
code() {
    local want=$1 rc=0
    shift
    timeout 120 "$@" >"$dir/said" 2>&1 || rc=$?
    [ $rc = "$want" ] || { cat "$dir/said" >&2; fail "exit $rc instead of $want: $*"; }
}
says() { grep -q -- "$1" "$dir/said" || { cat "$dir/said" >&2; fail "it does not say '$1'"; }; }

# ---- format ----

refused 2 'say --size' "$skerry" store format "$disk" --osd 3
refused 2 '--osd N is missing' "$skerry" store format "$disk" --size 256M
refused 2 'at least 64 MiB' "$skerry" store format "$disk" --size 1M --osd 3
refused 2 'a quarter' "$skerry" store format "$disk" --size 64M --osd 3 --log-blocks 5000
refused 2 'not a UUID' "$skerry" store format "$disk" --size 64M --osd 3 --cluster 1-2
[ ! -e "$disk" ] || fail "a refused format made a file"
cluster=6ba7b810-9dad-11d1-80b4-00c04fd430c8
"$skerry" -o json store format "$disk" --size 256M --osd 3 --cluster $cluster --log-blocks 1000 |
    jq -e --arg c $cluster '.osd == 3 and .cluster == $c and .size_bytes == 268435456' >/dev/null || fail "format -o json"
check "$disk" | jq -e --arg c $cluster '.verdict == "sound" and .log.blocks == 1000 and .objects == 0 and
    ([.superblocks[] | select(.whole and .cluster == $c and .osd == 3)] | length) == 3' >/dev/null || fail "check of a new store"
refused 6 'a Skerry store already' "$skerry" store format "$disk" --osd 3
code 0 "$skerry" store format "$disk" --osd 4 --force
check "$disk" | jq -e '.superblocks[0].osd == 4' >/dev/null || fail "format --force"

# ---- What is no store ----

head -c 1M /dev/urandom >"$dir/junk"
refused 2 'holds no Skerry store' "$skerry" store check "$dir/junk"
refused 2 'holds no Skerry store' "$skerry" store dump "$dir/junk"
refused 2 'is not there' "$skerry" store verify "$dir/none"
refused 2 'neither a file nor' "$skerry" store check "$dir"
refused 6 'begins with data' "$skerry" store format "$dir/junk" --size 64M --osd 1
code 2 "$skerry" -o json store check "$dir/junk"
jq -e '.error.code == "not_a_store"' "$dir/said" >/dev/null || fail "an error with -o json"

# ---- More than 4 GiB, and a device ----

code 0 "$skerry" store format "$dir/large" --size 40G --osd 1
code 0 "$skerry" store verify "$dir/large"
says '40.00 GiB'
rm "$dir/large"
detach() {
    local rc=$?
    [ -z "$device" ] || losetup -d "$device" || true
    return $rc
}
trap 'detach; finish' EXIT
device=$(losetup --find --show "$disk" 2>/dev/null || true)
if [ -n "$device" ]; then
    code 0 "$skerry" store format "$device" --osd 5 --force
    code 0 "$skerry" store check "$device"
    losetup -d "$device"
    device=""
    check "$disk" | jq -e '.superblocks[2].osd == 5' >/dev/null || fail "format of a device"
else
    echo "no loop device: not tried on one"
fi

# ---- A disk that a node wrote ----

start() {
    "$skerry" node --dir "$dir/n1" --admin "$dir/n1.sock" --nbd "127.0.0.1:$port" >>"$dir/n1.log" 2>&1 &
    node=$!
    pids+=("$node")
}
stop() { kill "-$1" "$node"; wait "$node" 2>/dev/null || true; }
cli() { "$skerry" --admin "$dir/n1.sock" "$@"; }
is_whole() { cli -o json status | jq -e '.pgs.total > 0 and .pgs.whole == .pgs.total and .writable'; }

port=$(free_port)
node_dirs=("$dir/n1")
"$skerry" init --dir "$dir/n1" --name one --replicas 1 --listen "127.0.0.1:$(free_port)" >/dev/null
start
until_true 20 cli status || fail "no node"
until_true 20 cli disk add "$dir/d1" --size 512M || { cat "$dir/n1.log"; fail "disk add"; }
until_true 30 is_whole || fail "not whole"
cli image create v 64M >/dev/null
head -c 20M /dev/urandom >"$dir/data"
qemu-img convert -n -f raw -O raw "$dir/data" "nbd://127.0.0.1:$port/v"
refused 2 'is in use' "$skerry" store check "$dir/d1"
refused 2 'is in use' "$skerry" store format "$dir/d1" --osd 1 --force
stop KILL

sum=$(sha256sum <"$dir/d1")
code 0 "$skerry" store check "$dir/d1"
says 'sound, as far as'
check "$dir/d1" >"$dir/check"
jq -e '.objects > 100 and ([.images[].blocks] | add) >= 5120 and .used_bytes == 4096 * ([.images[].blocks] | add)' \
    "$dir/check" >/dev/null || { cat "$dir/check"; fail "check does not count what was written"; }
code 0 "$skerry" -o json store verify "$dir/d1"
jq -e --slurpfile c "$dir/check" '.blocks_bad == 0 and .blocks_read == ([$c[0].images[].blocks] | add)' "$dir/said" >/dev/null ||
    fail "verify does not read every block"
code 0 "$skerry" -o json store dump "$dir/d1"
jq -es --slurpfile c "$dir/check" '
    ([.[] | select(.type == "superblock")] | length) == 3 and
    ([.[] | select(.type == "object" and (.deleted | not))] | length) == $c[0].objects and
    ([.[] | select(.type == "record" and .kind == "full")] | length) == $c[0].records.full and
    ([.[] | select(.type == "block" and .standing == "needed")] | length) == $c[0].log.end - $c[0].log.tail + 1' \
    "$dir/said" >/dev/null || fail "dump and check disagree"
jq -rs 'map(select(.type == "object" and .blocks > 0))[0] | "\(.image)/\(.object)"' "$dir/said" >"$dir/one"
code 0 "$skerry" store dump "$dir/d1" --object "$(cat "$dir/one")"
says 'in slots'
says 'its records in the log'
code 0 "$skerry" store dump "$dir/d1" --from 2 --count 2
[ "$(grep -c '^block ' "$dir/said")" = 2 ] || fail "dump --count"
[ "$sum" = "$(sha256sum <"$dir/d1")" ] || fail "looking at a disk changed it"

# ---- Damage: data, log, superblock; each is named, undone, and gone ----

"$skerry" -o json store dump "$dir/d1" --object "$(cat "$dir/one")" >"$dir/object"
byte=$(jq -s '.[0].runs[0].slot * 4096 + 100' "$dir/object")
flip "$dir/d1" "$byte"
code 0 "$skerry" store check "$dir/d1"
code 1 "$skerry" -o json store verify "$dir/d1"
jq -e --argjson b "$byte" '.verdict == "bad_data" and .blocks_bad == 1 and .bad[0].byte == $b - 100' "$dir/said" >/dev/null ||
    { cat "$dir/said"; fail "verify does not name the bad block"; }
code 1 "$skerry" store verify "$dir/d1"
says "byte $((byte - 100)): checksum"
flip "$dir/d1" "$byte"

end=$(jq .log.end "$dir/check")
byte=$(((1 + (end - 5) % $(jq .log.blocks "$dir/check")) * 4096 + 700))
flip "$dir/d1" "$byte"
code 1 "$skerry" store check "$dir/d1"
says "log_block_lost, at block $((byte / 4096)) of the device"
says 'damaged: no node serves this disk'
code 0 "$skerry" store dump "$dir/d1" --ring
says ': broken, beyond_end'
start
until_true 30 grep -q 'damaged' "$dir/n1.log" || fail "the node does not say that the disk is damaged"
stop TERM
flip "$dir/d1" "$byte"

flip "$dir/d1" 20
code 0 "$skerry" store check "$dir/d1"
says 'superblock 1 of 3 is damaged'
start
until_true 40 is_whole || fail "the node does not serve the disk again"
qemu-img compare -q -f raw -F raw "$dir/data" "nbd://127.0.0.1:$port/v" || fail "other data"
stop TERM
check "$dir/d1" | jq -e '.verdict == "sound" and .findings == [] and .records.beyond_mark == 0' >/dev/null ||
    { check "$dir/d1"; fail "not sound after all"; }

echo "format, check, dump and verify say what is there"
