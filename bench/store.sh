#!/bin/bash
# What does a store cost, beside the raw device? bench_store and fio in turn, on one file or device.
#
#   bench/store.sh [BUILD] [PATH] [SIZE] [ROUNDS]
#   bench/store.sh --stall SECONDS [BUILD] [PATH] [SIZE]
#
# PATH (default: $TMPDIR) is a block device, which is overwritten; or a folder, or a file that does
# not exist: a file is made and removed. SIZE (default 4G) is what each of the two has; it takes
# twice that. BENCH_SECONDS: of one measurement (2). Exit 0: it ran; whether the bars are met is
# said, and no reason to fail. The last line is JSON.
#
# What is fair:
# - Both work on the same file, the store on its first half, fio on the second: same file system,
#   same allocation, same lock of the inode. All of it is allocated, and written once, before.
# - Direct I/O over io_uring on both sides; the store has its checksums, there is no other way.
# - The same flushes. At depth 1 fio syncs after each write. At depth 32 it is told to sync once for
#   32 writes, and no write of it waits for a sync; a write of the store is over when it is durable,
#   so 32 of them wait for theirs. That is the stricter promise, and counts against the store. (How
#   many syncs fio really made is in the JSON, beside the flushes of the store.)
# - Reads are over as many bytes on both sides (what the store is filled with, 60 %). Writes go all
#   over the half on both sides, as a store does not write in place.
# - A round is fio, then the store, a few seconds each; a ratio is of one round, and the median of
#   the rounds counts: what else the machine does meets both. Latency at depth 1 is time by
#   operations; of fio's writes it has the sync in it.
# - CPU: of the store user and system time of its process, the kernel's threads for it included, and
#   the crc of what comes in (bench_store.c); of fio what it says of its own thread, which leaves
#   out the threads that sync for it.
# - Phases follow each other: sequential ones on a store that was just filled, then random ones;
#   then it is filled to 80 %, overwritten at random, and the sequential write is done once more.
#
# --stall: how long does one write take at worst, when the store at 80 % is overwritten at random at
# depth 32 without a pause? fio does the same with the raw half, SECONDS / 2 before and SECONDS / 2
# after; its longest write or sync is the device's own. Beside the store a thread of bench_store
# writes and syncs 4 KiB every 10 ms elsewhere in the file: what a write takes longer than 100 ms
# above the longest probe that overlaps it is the store's own doing. That is what the bar is on;
# fio's figures are there to judge the probe by.
set -euo pipefail

stall_seconds=0
if [ "${1:-}" = --stall ]; then
    stall_seconds=$2
    shift 2
fi
build=${1:-build}
where=${2:-${TMPDIR:-/tmp}}
size=$(numfmt --from=iec "${3:-4G}")
rounds=${4:-5}
seconds=${BENCH_SECONDS:-2}
bench=$build/bench/bench_store
probe_bytes=$((1 << 20))

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
for tool in fio jq fallocate; do
    command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
[ -x "$bench" ] || fail "no $bench"
[ $((size % (1 << 20))) = 0 ] || fail "SIZE is not a multiple of 1M"

dir=$(mktemp -d)
target=
finish() {
    local rc=$?
    trap - EXIT INT TERM
    if [ -n "${store_PID:-}" ]; then kill "$store_PID" 2>/dev/null || true; fi
    wait || true
    [ $rc = 0 ] || tail -n 5 "$dir"/*.err >&2 2>/dev/null || true
    [ -z "$target" ] || rm -f "$target"
    rm -rf "$dir"
    exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---- The file, the two sides ----

raw_fio() { # ARGS...: a fio job on the second half; prints its JSON
    fio --name=raw --filename="$path" --direct=1 --ioengine=io_uring --randrepeat=0 \
        --output-format=json "$@" 2>"$dir/fio.err" >"$dir/fio.json" || fail "fio $*: $(cat "$dir/fio.err")"
    jq -e '.jobs[0].error == 0' "$dir/fio.json" >/dev/null || fail "fio $*: $(jq '.jobs[0].error' "$dir/fio.json")"
}

path=$where
if [ -d "$path" ]; then path=$(mktemp -u "$path/bench-store-XXXXXX"); fi
if [ -b "$path" ]; then
    [ "$(blockdev --getsize64 "$path")" -ge $((2 * size + probe_bytes)) ] || fail "$path: too small"
else
    [ ! -e "$path" ] || fail "$path is there already"
    target=$path
    fallocate -l $((2 * size + probe_bytes)) "$path"
fi
raw_fio --rw=write --bs=1M --size=$((2 * size + probe_bytes)) --iodepth=4 --end_fsync=1

coproc store { exec "$bench" "$path" "$size" $((2 * size)) 2>"$dir/store.err"; }

tell() { # COMMAND...: prints the store's line
    echo "$*" >&"${store[1]}" || fail "the store is gone"
    local line
    IFS= read -r -u "${store[0]}" line || fail "the store did not answer: $*"
    echo "$line"
}

line=$(tell fill 60)
set_bytes=$(jq '.objects * 131072' <<<"$line")
echo "a store of $((size >> 20)) MiB, $((set_bytes >> 20)) MiB of objects; fio on as much"

# raw JOB BYTES DEPTH SECONDS: prints one line, in the words of bench_store.
raw() {
    local over=$size
    case $1 in *read) over=$set_bytes ;; esac
    raw_fio --rw="$1" --bs="$2" --iodepth="$3" --fdatasync="$3" --offset="$size" --size="$over" \
        --time_based --runtime="$4"
    jq -c --arg job "$1" '.jobs[0] as $j | (if $job | endswith("read") then $j.read else $j.write end) as $d
        | {job: $job, ops: $d.total_ios, iops: $d.iops,
           cpu_us: (($j.usr_cpu + $j.sys_cpu) * $j.job_runtime * 10 / $d.total_ios),
           user_us: ($j.usr_cpu * $j.job_runtime * 10 / $d.total_ios),
           latency_us: {p50: ($d.clat_ns.percentile["50.000000"] / 1000), p99: ($d.clat_ns.percentile["99.000000"] / 1000),
                        p99_9: ($d.clat_ns.percentile["99.900000"] / 1000), max: ($d.clat_ns.max / 1000)},
           syncs: ($j.sync.lat_ns.N // 0),
           sync_us: (if ($j.sync.lat_ns.N // 0) > 0 then {p50: ($j.sync.lat_ns.percentile["50.000000"] / 1000),
               p99: ($j.sync.lat_ns.percentile["99.000000"] / 1000),
               p99_9: ($j.sync.lat_ns.percentile["99.900000"] / 1000), max: ($j.sync.lat_ns.max / 1000)} else null end)}' \
        "$dir/fio.json"
}

# ---- The ratios ----

# phase NAME JOB BYTES DEPTH
phase() {
    local name=$1 job=$2 bytes=$3 depth=$4 round of_raw of_store
    for round in $(seq "$rounds"); do
        of_raw=$(raw "$job" "$bytes" "$depth" "$seconds")
        of_store=$(tell "$job" "$bytes" "$depth" $((seconds * 1000)))
        jq -nc --arg phase "$name" --argjson bytes "$bytes" --argjson depth "$depth" --argjson raw "$of_raw" \
            --argjson store "$of_store" '{$phase, $bytes, $depth, $raw, $store}' >>"$dir/rounds"
    done
    jq -sr --arg phase "$name" 'def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
        map(select(.phase == $phase)) | "  \($phase): \(map(.store.iops / .raw.iops * 1000 | round / 1000))"' "$dir/rounds"
}

# What counts, of each phase: medians, each for itself; ratios are medians of the rounds' ratios.
summary='
def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
def r(n): . * n | round / n;
def bars: {seq_write: {throughput: 0.9}, read_1: {latency: 1.15}, write_1: {latency: 1.6},
    read_32: {cpu: 3}, write_32: {throughput: 0.8, amplification: 1.1, cpu: 6}};
reduce .[] as $r ([]; if .[-1][0].phase == $r.phase then .[-1] += [$r] else . + [[$r]] end)
| [.[] | (.[0].phase) as $phase | (bars[$phase] // {}) as $bar | {
    phase: $phase, bytes: .[0].bytes, depth: .[0].depth,
    store_iops: (map(.store.iops) | median | round), raw_iops: (map(.raw.iops) | median | round),
    ratios: map(.store.iops / .raw.iops | r(1000)),
    throughput: (map(.store.iops / .raw.iops) | median | r(1000)),
    latency: (map(.raw.iops / .store.iops) | median | r(1000)),
    store_p50_us: (map(.store.latency_us.p50) | median), store_p99_us: (map(.store.latency_us.p99) | median),
    raw_p50_us: (map(.raw.latency_us.p50) | median | r(10)), raw_p99_us: (map(.raw.latency_us.p99) | median | r(10)),
    cpu: (map(.store.cpu_us) | median | r(100)), cpu_user: (map(.store.user_us) | median | r(100)),
    raw_cpu: (map(.raw.cpu_us) | median | r(100)), raw_cpu_user: (map(.raw.user_us) | median | r(100)),
    amplification: (if .[0].store.written then ((map(.store.to_device) | add) / (map(.store.written) | add) | r(10000)) else null end),
    writes_per_flush: (if .[0].store.written then ((map(.store.ops) | add) / ([map(.store.flushes) | add, 1] | max) | r(10)) else null end),
    raw_writes_per_sync: (if .[0].store.written then ((map(.raw.ops) | add) / ([map(.raw.syncs) | add, 1] | max) | r(10)) else null end),
    used: (map(.store.used) | max),
    bars: $bar}
  | . + {met: (. as $p | [(if $bar.throughput then {throughput: ($p.throughput >= $bar.throughput)} else {} end),
        (if $bar.latency then {latency: ($p.latency <= $bar.latency)} else {} end),
        (if $bar.cpu then {cpu: ($p.cpu <= $bar.cpu)} else {} end),
        (if $bar.amplification then {amplification: ($p.amplification <= $bar.amplification)} else {} end)] | add)}]'

table='
def pad(n): tostring | (" " * ([n - length, 0] | max)) + .;
def bar(p; name; sign): if p.bars[name] then "\(name) \(p[name]) \(sign) \(p.bars[name]): \(if p.met[name] then "met" else "NOT met" end)" else empty end;
"phase           depth     store/s       raw/s   throughput  latency   CPU us (user)   raw (user)  amplif.  bars",
(.[] | "\(.phase + " " * (16 - (.phase | length)))\(.depth | pad(5)) \(.store_iops | pad(11)) \(.raw_iops | pad(11)) \(.throughput | pad(12)) \(.latency | pad(8)) \("\(.cpu) (\(.cpu_user))" | pad(15)) \("\(.raw_cpu) (\(.raw_cpu_user))" | pad(12)) \(.amplification // "-" | pad(8))  \(
    [bar(.; "throughput"; ">="), bar(.; "latency"; "<="), bar(.; "amplification"; "<="), bar(.; "cpu"; "<=")] | join("; "))")'

ratios() {
    phase seq_write write 131072 32
    phase seq_read read 131072 32
    phase read_1 randread 4096 1
    phase read_32 randread 4096 32
    phase write_1 randwrite 4096 1
    phase write_32 randwrite 4096 32
    tell fill 80 >/dev/null
    phase write_32_80 randwrite 4096 32
    phase seq_write_80 write 131072 32
    jq -s "$summary" "$dir/rounds" >"$dir/summary"
    jq -r "$table" "$dir/summary"
    jq -c --argjson size "$size" --argjson rounds "$rounds" --argjson seconds "$seconds" \
        '{bench: "store", $size, $rounds, $seconds, phases: (map({(.phase): del(.phase)}) | add)}' "$dir/summary"
}

# ---- Stalls ----

stalls() {
    local before after of_store
    tell fill 80 >/dev/null
    before=$(raw randwrite 4096 32 $(((stall_seconds + 1) / 2)))
    of_store=$(tell stall 4096 32 $((stall_seconds * 1000)))
    after=$(raw randwrite 4096 32 $(((stall_seconds + 1) / 2)))
    jq -nc --argjson before "$before" --argjson store "$of_store" --argjson after "$after" --argjson seconds "$stall_seconds" \
        '{bench: "store_stall", $seconds, $store, raw: [$before, $after],
          raw_max_ms: ([$before, $after | .latency_us.max, .sync_us.max] | max / 1000),
          met: ($store.excess_ms_max <= 100)}' >"$dir/stall"
    jq -r '.store as $s | def ms: . / 100 | round / 10;
        "                p50 ms   p99 ms   p99.9 ms   max ms",
        "store, durable  \($s.latency_us | [.p50, .p99, .p99_9, .max] | map(ms | tostring) | join("   "))",
        "probe, synced   \($s.probe_us | [.p50, .p99, .p99_9, .max] | map(ms | tostring) | join("   "))",
        (.raw[] | "raw write       \(.latency_us | [.p50, .p99, .p99_9, .max] | map(ms | tostring) | join("   "))",
            "raw sync        \(.sync_us | [.p50, .p99, .p99_9, .max] | map(ms | tostring) | join("   "))"),
        "stalls of the store over 100 ms: \($s.stalls_over_100_ms), 200: \($s.stalls_over_200_ms), 400: \($s.stalls_over_400_ms), 800: \($s.stalls_over_800_ms)",
        ($s.stalls[] | "  at \(.at_s) s: \(.ms) ms, of which the device \(.device_ms)"),
        "longest above the device'"'"'s own: \($s.excess_ms_max) ms (bar: 100): \(if .met then "met" else "NOT met" end)"' "$dir/stall"
    jq -c . "$dir/stall"
}

if [ "$stall_seconds" -gt 0 ]; then stalls; else ratios; fi
exec {store[1]}>&-
store_pid=$store_PID
wait "$store_pid" || fail "the store ended badly"
