#!/bin/bash
# A cluster by hand, without the demo: init, join, disk add, on loopback; then one node after the
# other is stopped in order and started again, with its ports remembered.
#
#   tests/process/by_hand.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need jq qemu-img python3

start() { # K [OPTION...]
    local k=$1
    shift
    "$skerry" node --dir "$dir/n$k" --admin "$dir/n$k.sock" "$@" >>"$dir/n$k.log" 2>&1 &
    node[k]=$!
    pids+=("${node[k]}")
}
cli() { # K ARG...
    local k=$1
    shift
    "$skerry" --admin "$dir/n$k.sock" "$@"
}
answers() { cli "$1" -o json status | jq -e '.raft.leader != 0'; }
whole() { cli "$1" -o json status | jq -e '.pgs.total > 0 and .pgs.whole == .pgs.total and .writable and .survives_another_failure'; }

node=()
node_dirs=("$dir/n1" "$dir/n2" "$dir/n3")
"$skerry" init --dir "$dir/n1" --name one --listen "127.0.0.1:$(free_port)" >"$dir/init.out"
grep -q 'skerry node --dir' "$dir/init.out" || fail "init does not name the next command"
token=$(sed -n 's/.*skerry join \(skerry1[^ ]*\).*/\1/p' "$dir/init.out")
[ "$token" = "$("$skerry" token show --dir "$dir/n1")" ] || fail "token show shows another token"
refused 4 'is a node already' "$skerry" init --dir "$dir/n1"
mkdir -m 755 "$dir/there"
"$skerry" init --dir "$dir/there" --name there --listen "127.0.0.1:$(free_port)" >/dev/null
[ "$(stat -c %a "$dir/there")" = 700 ] || fail "a node directory that was there before is open to others"
mkdir "$dir/home"
echo precious >"$dir/home/file"
refused 6 'holds something else' "$skerry" init --dir "$dir/home" --name home
[ ! -e "$dir/home/raft" ] || fail "a refused init left things behind"

start 1 --nbd "127.0.0.1:$(free_port)"
until_true 20 answers 1 || fail "node one has no leader"
refused 4 'name' "$skerry" join "$token" --dir "$dir/x" --name one --listen "127.0.0.1:$(free_port)"

"$skerry" join "$token" --dir "$dir/n2" --name two --listen "127.0.0.1:$(free_port)" >/dev/null
"$skerry" -o json join --dir "$dir/n3" "$token" --name three --listen "127.0.0.1:$(free_port)" |
    jq -e '.node == 3 and .name == "three"' >/dev/null || fail "join -o json"
start 2 --nbd "127.0.0.1:$(free_port)"
start 3 --nbd "127.0.0.1:$(free_port)"
for k in 2 3; do until_true 20 answers $k || fail "node $k has no leader"; done

cli 1 status | grep -q 'NO_POOL' || fail "a cluster without disks does not say so"
refused 2 'size' "$skerry" --admin "$dir/n1.sock" disk add "$dir/d1"
for k in 1 2 3; do
    cli $k disk add "$dir/d$k" --size 256M | grep -q "osd.$k of node" || fail "disk add $k"
    [ $(($(stat -c %b "$dir/d$k") * 512)) -ge $((256 << 20)) ] || fail "disk $k is not reserved in full"
done
for k in 1 2 3; do until_true 30 whole $k || { cli $k status; fail "node $k does not see every PG whole"; }; done
refused 4 'already' "$skerry" --admin "$dir/n1.sock" disk add "$dir/d1"
cli 2 osd list | grep -q 'osd.3 *three *yes' || fail "osd list"
cli 2 pool show default | grep -q 'stops at 2' || fail "pool show does not explain min_size"
cli 3 meta dump | jq -e 'type == "object"' >/dev/null || fail "meta dump is no JSON object"

nbd() { jq -r .nbd "$dir/n$1/ports"; }
cli 1 image create a/b-1 32M >/dev/null
cli 2 -o json image show a/b-1 | jq -e '.name == "a/b-1"' >/dev/null || fail "a name with a slash"
head -c 32M /dev/urandom >"$dir/data"
qemu-img convert -n -f raw -O raw "$dir/data" "nbd://$(nbd 1)/a/b-1"

# One after the other: an orderly stop within 10 s, a start with what it remembers, all whole again.
for k in 1 2 3; do
    ports=$(cat "$dir/n$k/ports")
    begin=$SECONDS
    kill -TERM "${node[k]}"
    rc=0
    wait "${node[k]}" || rc=$?
    [ $rc = 0 ] || fail "node $k ended with $rc"
    [ $((SECONDS - begin)) -le 10 ] || fail "node $k took $((SECONDS - begin)) s to stop"
    [ ! -e "$dir/n$k/pid" ] && [ ! -e "$dir/n$k.sock" ] || fail "node $k left its pid or socket"
    qemu-img compare -q -f raw -F raw "$dir/data" "nbd://$(nbd $((k % 3 + 1)))/a/b-1" || fail "other data without node $k"
    start $k
    until_true 40 whole $k || { cli $k status; fail "node $k is back, but not every PG is whole"; }
    [ "$ports" = "$(cat "$dir/n$k/ports")" ] || fail "node $k has other ports than before"
    qemu-img compare -q -f raw -F raw "$dir/data" "nbd://$(nbd $k)/a/b-1" || fail "node $k reads other data"
done

# --dir asks the node of that directory, before SKERRY_ADMIN, after --admin, and never another one.
asked() { "$skerry" "$@" -o json status | jq -r .node; }
[ "$(asked --dir "$dir/n2")" = two ] || fail "--dir asks another node"
[ "$(SKERRY_ADMIN=$dir/n1.sock asked --dir "$dir/n2")" = two ] || fail "SKERRY_ADMIN goes before --dir"
[ "$(SKERRY_ADMIN=$dir/n1.sock asked --dir "$dir/n2" --admin "$dir/n3.sock")" = three ] || fail "--dir goes before --admin"
[ "$(SKERRY_ADMIN=$dir/n1.sock asked)" = one ] || fail "SKERRY_ADMIN is not heard"
refused 3 'holds no node' "$skerry" --dir "$dir" status

# All at once, and all again. What an orderly stop says is no error, and says last that it is done.
errors() { grep -c 'level=error' "$dir/n$1.log" || true; }
for k in 1 2 3; do errors[k]=$(errors $k); done
kill -TERM "${node[3]}"
wait "${node[3]}" || fail "node 3 ended with $?"
SKERRY_ADMIN=$dir/n1.sock refused 7 'does not run' "$skerry" --dir "$dir/n3" status
SKERRY_ADMIN=$dir/n1.sock refused 7 'does not run' "$skerry" --dir "$dir/n3" disk add "$dir/d9" --size 256M
[ ! -e "$dir/d9" ] || fail "a disk for a node that does not run was made elsewhere"
for k in 1 2; do kill -TERM "${node[k]}"; done
for k in 1 2; do wait "${node[k]}" || fail "node $k ended with $?"; done
for k in 1 2 3; do
    [ "$(errors $k)" = "${errors[k]}" ] || fail "node $k logged errors while it stopped in order"
    tail -n 1 "$dir/n$k.log" | grep -q 'msg="\?stopped' || fail "the last word of node $k is not that it stopped"
done
for k in 1 2 3; do start $k; done
for k in 1 2 3; do until_true 60 whole $k || { cli $k status; fail "after a full stop, node $k does not see all whole"; }; done
qemu-img compare -q -f raw -F raw "$dir/data" "nbd://$(nbd 2)/a/b-1" || fail "other data after a full stop"
