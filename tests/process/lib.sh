# shellcheck shell=bash
# What the process tests have in common; sourced, with BUILD_DIR as the script's first argument.
#
# Every process that a test starts is in $pids or in a demo that it stops; nothing else is ever
# signalled. Exit 0: all is well; 77: something it needs is not there.

set -euo pipefail

build=$(cd "${1:?"usage: $0 BUILD_DIR"}" && pwd)
# shellcheck disable=SC2034
skerry=$build/skerry
unset SKERRY_ADMIN SKERRY_OUTPUT SKERRY_LOG

dir=$(mktemp -d "${TMPDIR:-/tmp}/skerry-XXXXXX")
pids=()
mounts=()
node_dirs=()

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

skip() {
    echo "skipped: $*"
    exit 77
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || skip "no $tool"
    done
}

# The pid of a node that was started in a directory, by hand or not.
node_pid() { cat "$1/pid" 2>/dev/null || true; }

finish() {
    local rc=$? pid mount node
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do
        for _ in $(seq 150); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    for node in "${node_dirs[@]}"; do
        pid=$(node_pid "$node")
        [ -z "$pid" ] || [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" != "$skerry" ] ||
            kill -KILL "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    if [ $rc != 0 ] && [ $rc != 77 ]; then
        tail -n 15 "$dir"/*.log "$dir"/demo/*.log "$dir"/*.out >&2 2>/dev/null || true
    fi
    for mount in "${mounts[@]}"; do umount "$mount" 2>/dev/null || true; done
    rm -rf "$dir"
    exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}

# refused EXIT_CODE TEXT COMMAND...: the command ends with that code, and says that text.
refused() {
    local code=$1 text=$2 rc=0
    shift 2
    timeout 60 "$@" >"$dir/refused.out" 2>&1 || rc=$?
    [ $rc = "$code" ] || { cat "$dir/refused.out" >&2; fail "exit $rc instead of $code: $*"; }
    grep -q -- "$text" "$dir/refused.out" ||
        { cat "$dir/refused.out" >&2; fail "no '$text' from: $*"; }
}

# ---- A demo ----

demo_pid=""

# demo_start [OPTION...]: in $dir/demo; sets demo_pid.
demo_start() {
    "$skerry" demo --dir "$dir/demo" --keep-data "$@" >"$dir/demo.out" 2>&1 &
    demo_pid=$!
    pids+=("$demo_pid")
    for _ in $(seq 900); do
        grep -qx ready "$dir/demo.out" && return 0
        kill -0 "$demo_pid" 2>/dev/null || break
        sleep 0.1
    done
    fail "the demo did not become ready"
}

demo_stop() {
    kill -TERM "$demo_pid"
    wait "$demo_pid" || fail "the demo ended with $?"
    demo_pid=""
}

of() { jq -r ".nodes[$1].$2" "$dir/demo/demo.json"; }

# Run a node of the demo again by hand, from demo.json.
node_restart() {
    local argv
    mapfile -t argv < <(jq -r ".nodes[$1].argv[]" "$dir/demo/demo.json")
    "${argv[@]}" >>"$dir/demo/n$(($1 + 1)).log" 2>&1 &
    pids+=($!)
}

# node_kill INDEX: SIGKILL whichever process runs that node of the demo now.
node_kill() {
    local pid
    pid=$(node_pid "$(of "$1" dir)")
    [ -n "$pid" ] || fail "node $1 has no pid"
    kill -KILL "$pid"
    until_true 5 test ! -e "/proc/$pid/fd/0" || fail "node $1 did not die"
}

# is_whole INDEX: by that node's word, every PG is whole and every OSD up.
is_whole() {
    "$skerry" --admin "$(of "$1" admin)" -o json status |
        jq -e '.pgs.total > 0 and .pgs.whole == .pgs.total and .osds.up == .osds.total and .writable'
}

# ---- Verified random writes ----

# fio_start URI SECONDS: in the background; 4 KiB at depth 16, read back and compared all the while.
fio_start() {
    fio --name=verify --ioengine=nbd --uri="$1" --rw=randwrite --bs=4k --iodepth=16 \
        --size=128M --time_based --runtime="$2" --verify=crc32c --verify_backlog=256 \
        --verify_fatal=1 --verify_state_save=0 --do_verify=1 --randrepeat=0 --output-format=json \
        --output="$dir/fio.json" >"$dir/fio.out" 2>&1 &
    fio_pid=$!
    pids+=("$fio_pid")
}

# fio_end KILLS: it met no error, read something back, and lived through at least two kills.
fio_end() {
    local rc=0
    wait "$fio_pid" || rc=$?
    [ $rc = 0 ] || { cat "$dir/fio.out" >&2; fail "fio ended with $rc"; }
    jq -e '.jobs[0] | .error == 0 and .read.total_ios > 0 and .write.total_ios > 0' "$dir/fio.json" >/dev/null ||
        fail "fio read nothing back, or met errors"
    jq -r --arg kills "$1" '.jobs[0] | "\($kills) kills; \(.write.total_ios) writes, \(.read.total_ios) verified reads, \(.error) errors; longest write \(.write.clat_ns.max / 1e6 | floor) ms"' "$dir/fio.json"
    [ "$1" -ge 2 ] || fail "only $1 kills"
}
