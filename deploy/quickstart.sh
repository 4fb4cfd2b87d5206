#!/bin/bash
# Builds Skerry and shows it: a 3-node cluster on this machine, a real file system written through
# one node while another is killed, read back through the third, compared byte for byte.
#
#   deploy/quickstart.sh [--keep-running]
#
# Needs Debian 12 and root (or sudo), for the packages. Everything else is below build/ and a
# temporary directory. Exit 0: every comparison held. With --keep-running the cluster is left up, and
# the last lines say how to use and how to stop it.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/packages.sh

keep_running=0
for arg in "$@"; do
    case $arg in
    --keep-running) keep_running=1 ;;
    *) echo "usage: deploy/quickstart.sh [--keep-running]" >&2; exit 2 ;;
    esac
done

work="" demo_pid="" restarted_pid=""
cleanup() {
    local rc=$?
    trap - EXIT INT TERM
    [ $rc != 0 ] || [ $keep_running = 0 ] || exit 0
    if [ -n "$demo_pid" ]; then
        kill -TERM "$demo_pid" 2>/dev/null || true
        wait "$demo_pid" 2>/dev/null || true
    fi
    [ -z "$restarted_pid" ] || wait "$restarted_pid" 2>/dev/null || true
    if [ $rc = 130 ]; then
        echo "quickstart: interrupted; what it started is stopped, what it wrote is removed" >&2
    elif [ $rc != 0 ] && [ -n "$work" ]; then
        echo "quickstart failed (exit $rc); the last lines of the logs:" >&2
        tail -n 20 "$work"/demo.out "$work"/demo/*.log >&2 2>/dev/null || true
    fi
    [ -z "$work" ] || rm -rf "$work"
    exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT TERM

now() { date +%s.%N; }
since() { echo "$(now) $1" | awk '{ printf "%.1f", $1 - $2 }'; }
say() { printf '%-34s %s\n' "$1" "$2"; }

# ---- Packages and build ----

# shellcheck disable=SC2086
packages_install "what is needed to build and to show it" $PACKAGES_BUILD $PACKAGES_SHOW
echo "Building build/skerry; the first time takes up to a few minutes"
begin=$(now)
cmake -G Ninja -S . -B build -DSKERRY_TESTS=OFF >/dev/null
ninja -C build skerry >/dev/null || { ninja -C build skerry; exit 1; }
skerry=$PWD/build/skerry
say "built build/skerry in" "$(since "$begin") s"

# ---- A cluster ----

work=$(mktemp -d "${TMPDIR:-/tmp}/skerry-quickstart-XXXXXX")
begin=$(now)
# In a session of its own, so that with --keep-running it outlives this shell and its terminal.
setsid "$skerry" demo --dir "$work/demo" --keep-data >"$work/demo.out" 2>&1 </dev/null &
demo_pid=$!
for _ in $(seq 600); do
    grep -qx ready "$work/demo.out" && break
    kill -0 $demo_pid 2>/dev/null || break
    sleep 0.1
done
grep -qx ready "$work/demo.out" || exit 1
say "3 nodes ready in" "$(since "$begin") s"

json=$work/demo/demo.json
of() { jq -r ".nodes[$1].$2" "$json"; }
export SKERRY_ADMIN
SKERRY_ADMIN=$(of 0 admin)
"$skerry" status | sed -n '2,4p'

# ---- A real file system ----

# Files of this machine, up to 300 MiB of them, as an ext4 image.
mkdir "$work/files"
{ find /usr/lib/gcc /usr/lib/*-linux-gnu /usr/bin /usr/include /usr/share /usr/lib -xdev -type f \
    -readable -size -65536k -printf '%s %p\n' 2>/dev/null || true; } | grep -v '[^[:print:]]' |
    awk -v left=$((300 << 20)) '!seen[$0]++ && $1 <= left { left -= $1; sub(/^[0-9]+ /, ""); print }' \
        >"$work/list"
(cd / && tr '\n' '\0' <"$work/list" | xargs -0 -r cp --parents -p -t "$work/files")
bytes=$(du -sb "$work/files" | cut -f1)
raw=$work/fs.img
mke2fs -q -t ext4 -d "$work/files" -E root_owner=0:0 "$raw" 512M >/dev/null
rm -rf "$work/files"
[ "$bytes" -ge $((280 << 20)) ] || { echo "too few files on this machine" >&2; exit 1; }
say "an ext4 image of" "$((bytes >> 20)) MiB of files, 512 MiB in all"

"$skerry" image create fs1 512M >/dev/null
"$skerry" image create fs2 512M >/dev/null

# ---- Write it; kill a node; write it again ----

copy() { qemu-img convert -n -f raw -O raw -m 8 -W "$raw" "$(of 0 nbd)/$1"; }
rate() { echo "$(stat -c %s "$raw") $(now) $1" | awk '{ printf "%.1f s, %.0f MiB/s", $2 - $3, $1 / 1048576 / ($2 - $3) }'; }

begin=$(now)
copy fs1
say "written through node n1" "$(rate "$begin")"

victim=2
victim_pid=$(of $victim pid)
begin=$(now)
copy fs2 &
copy_pid=$!
sleep 0.3
kill -0 $copy_pid || { echo "the copy ended before the node could be killed" >&2; exit 1; }
kill -KILL "$victim_pid"
wait $copy_pid
say "again, with node n3 killed meanwhile" "$(rate "$begin")"
"$skerry" status | sed -n '2,4p'

# ---- Read it back from another node, and compare ----

read_back() {
    qemu-img convert -f raw -O raw -m 8 -W "$(of "$1" nbd)/$2" "$work/back"
    cmp "$raw" "$work/back"
    e2fsck -fn "$work/back" >"$work/fsck.out" 2>&1 || { cat "$work/fsck.out"; exit 1; }
    rm -f "$work/back"
}
begin=$(now)
read_back 1 fs1
read_back 1 fs2
say "both read back through node n2 in" "$(since "$begin") s: same bytes, e2fsck clean"

# ---- Start the killed node again, and wait until every copy is there ----

begin=$(now)
mapfile -t argv < <(jq -r ".nodes[$victim].argv[]" "$json")
setsid "${argv[@]}" >>"$work/demo/n3.log" 2>&1 </dev/null &
restarted_pid=$!
whole=0
for _ in $(seq 600); do
    if status=$("$skerry" -o json status) &&
        jq -e '.pgs.total > 0 and .pgs.whole == .pgs.total and .osds.up == 3' <<<"$status" >/dev/null; then
        whole=1
        break
    fi
    sleep 0.2
done
[ $whole = 1 ] || { "$skerry" status; exit 1; }
say "node n3 back, every PG whole in" "$(since "$begin") s"
read_back 2 fs2
say "and read back through it" "same bytes, e2fsck clean"
"$skerry" status | sed -n '2,4p'

if [ $keep_running = 1 ]; then
    rm -f "$raw" "$work/list" "$work/fsck.out"
    echo
    sed -n '/^Try:/,/^$/p' "$work/demo.out"
    echo "The cluster keeps running, with the images fs1 and fs2 in it (its addresses: $json)."
    echo "Stop it and remove its data with: kill $demo_pid; tail --pid=$demo_pid -f /dev/null; rm -r $work"
else
    echo
    echo "To play with such a cluster: build/skerry demo, or deploy/quickstart.sh --keep-running"
fi
echo "quickstart: all held"
