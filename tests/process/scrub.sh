#!/bin/bash
# What rots on a disk is mended though nobody reads it, and the room of what was deleted goes back to
# the file system.
#
#   tests/process/scrub.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need jq qemu-img python3

# disk INDEX: the file that is that node's disk.
disk() { readlink -f "$(of "$1" dir)"/osd/*; }

# osd INDEX FILTER: of the row of that node's disk.
osd() { "$skerry" --admin "$(of "$1" admin)" -o json osd list | jq "map(select(.scrub != null))[0] | $2"; }

# is_mended INDEX: scrub has found one bad block there, and one object was repaired.
is_mended() { [ "$(osd "$1" '.scrub.bad_blocks >= 1 and .repaired_objects >= 1')" = true ]; }

# room_of INDEX: KiB that the file system has given to the disk.
room_of() { du -k "$(disk "$1")" | cut -f 1; }
has_given_back() { [ "$(room_of "$1")" -lt "$2" ]; }

# rot INDEX TEXT: a byte of the block of that node's disk that begins with the text.
rot() {
    python3 - "$(disk "$1")" "$2" <<'PYTHON' || fail "the block is not on node $1"
import os, sys
path, text = sys.argv[1], sys.argv[2].encode()
f = os.open(path, os.O_RDWR)
at = 0
while True: # data only: the file is large, and has holes
    try:
        at = os.lseek(f, at, os.SEEK_DATA) // 4096 * 4096
    except OSError:
        sys.exit(1)
    data = os.pread(f, 1 << 20, at)
    for k in range(0, len(data), 4096):
        if data.startswith(text, k):
            os.pwrite(f, b"#", at + k + 100)
            os.fsync(f)
            sys.exit(0)
    at += len(data)
PYTHON
}

demo_start --size 2G
demo_stop
rm "$dir/demo.out" # it says "ready"
for i in 0 1 2; do
    printf '[disk]\nscrub_period = 1m\n' >"$(of "$i" dir)/node.conf"
done
demo_start --size 2G

python3 -c '
import os, sys
for i in range(16 * 256):
    sys.stdout.buffer.write((b"block %8d " % i + os.urandom(16).hex().encode() + b" " * 4096)[:4096])
' >"$dir/data"
"$skerry" --admin "$(of 0 admin)" image create cold 16M >/dev/null
qemu-img convert -n -f raw -O raw "$dir/data" "$(of 0 nbd)/cold"

for i in 0 1 2; do
    rot $i "block $(printf %8d $((1000 * i + 7))) "
done
for i in 0 1 2; do
    until_true 150 is_mended $i || fail "node $i: $(osd $i .)"
done
qemu-img compare -q -f raw -F raw "$dir/data" "$(of 1 nbd)/cold" || fail "other data after scrub"
echo "scrub: all is well"

declare -a before
for i in 0 1 2; do before[i]=$(room_of $i); done
"$skerry" --admin "$(of 0 admin)" image delete cold --yes >/dev/null
for i in 0 1 2; do
    until_true 200 has_given_back $i $((before[i] - 12 * 1024)) || fail "node $i keeps $(room_of $i) of ${before[i]} KiB"
done
demo_stop
echo "discard: all is well"
