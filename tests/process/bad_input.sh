#!/bin/bash
# What people and strangers do wrong: every case ends with a sentence and the right exit code, and
# the cluster goes on.
#
#   tests/process/bad_input.sh BUILD_DIR
. "$(dirname "$0")/lib.sh"
need jq python3 qemu-img

# The command line itself.
refused 2 'no command' "$skerry"
refused 2 'no command "nonsense"' "$skerry" nonsense
refused 2 'say one of' "$skerry" image
refused 2 'say one of' "$skerry" image destroy
refused 2 'takes no --frob' "$skerry" status --frob
refused 2 'NAME SIZE' "$skerry" image create only-a-name
refused 2 'not a size' "$skerry" image create x 12Q
refused 2 '--nodes' "$skerry" demo --nodes 0
refused 2 'table or json' "$skerry" -o yaml status
SKERRY_OUTPUT=yaml refused 2 'SKERRY_OUTPUT is table or json' "$skerry" version
[ "$(SKERRY_OUTPUT=yaml "$skerry" -o table version)" = "$("$skerry" --version)" ] || fail "--version is not version"
[ "$("$skerry" -o json --version | jq -r .version)" = "$("$skerry" version | cut -d' ' -f2)" ] || fail "--version -o json"
"$skerry" help status | grep -q '?\.' && fail "help status ends with ?."
refused 7 'no node answers' "$skerry" --admin "$dir/none.sock" status
refused 2 '107 bytes' "$skerry" --admin "/$(printf 'x%.0s' $(seq 120))" status
refused 2 'no address' "$skerry" init --dir "$dir/bad" --listen elsewhere
[ ! -e "$dir/bad/identity" ] || fail "a refused init left an identity"
rc=0
out=$("$skerry" -o json --admin "$dir/none.sock" status) || rc=$?
[ $rc = 7 ] && jq -e '.error.code == "unreachable" and .error.message and .error.why and .error.action' <<<"$out" >/dev/null ||
    fail "an error with -o json: $out"

demo_start --size 1G
admin=$(of 0 admin)
listen=$(jq -r .listen "$(of 0 dir)/ports")
nbd_port=$(of 0 nbd | sed 's/.*://')

# A second demo in the same directory, and one where other things lie: both leave all as it is.
refused 4 'already runs' "$skerry" demo --dir "$dir/demo" --size 1G
"$skerry" --admin "$admin" status >/dev/null || fail "a second demo stopped the first"
[ -e "$(of 2 dir)/identity" ] || fail "a second demo removed the first one's data"
mkdir -p "$dir/home/n2"
echo precious >"$dir/home/n2/file"
refused 6 'holds something else' "$skerry" demo --dir "$dir/home" --size 1G
[ -e "$dir/home/n2/file" ] || fail "a demo removed what was not its own"

# Tokens.
token=$("$skerry" token show --dir "$(of 0 dir)")
join() { "$skerry" join "$1" --dir "$dir/j" --name j --listen "127.0.0.1:$(free_port)"; }
export -f join free_port
export skerry dir
refused 5 'not a join token' "$skerry" join nonsense --dir "$dir/j"
refused 5 'not a join token' "$skerry" join "${token%????}AAAA" --dir "$dir/j"
"$skerry" init --dir "$dir/other" --name other --listen "$listen" >/dev/null
foreign=$("$skerry" token show --dir "$dir/other")
refused 5 'token' "$skerry" join "$foreign" --dir "$dir/j" --name j --listen "127.0.0.1:$(free_port)"
[ ! -e "$dir/j/identity" ] || fail "a refused join left an identity"
"$skerry" init --dir "$dir/nobody" --name nobody --listen "127.0.0.1:$(free_port)" >/dev/null
refused 7 'no node of the cluster' "$skerry" join "$("$skerry" token show --dir "$dir/nobody")" --dir "$dir/j" --name j --listen "127.0.0.1:$(free_port)"

# Starting what runs, or where somebody else is.
mapfile -t argv < <(jq -r '.nodes[0].argv[]' "$dir/demo/demo.json")
refused 4 'a node already runs' "${argv[@]}"
refused 3 'holds no node' "$skerry" node --dir "$dir/empty" --admin "$dir/e.sock"
refused 1 'another process listens there' "$skerry" node --dir "$dir/nobody" --admin "$dir/e.sock" --listen "$listen" --nbd "127.0.0.1:$(free_port)"
refused 1 'NBD' "$skerry" node --dir "$dir/nobody" --admin "$dir/e.sock" --nbd "127.0.0.1:$nbd_port"
refused 1 'another node answers' "$skerry" node --dir "$dir/nobody" --admin "$admin" --nbd "127.0.0.1:$(free_port)"
refused 2 '107 bytes' "$skerry" node --dir "$dir/nobody" --admin "/tmp/$(printf 'x%.0s' $(seq 120))" --nbd "127.0.0.1:$(free_port)"
printf '[node]\nname = nobody\n[nbd]\nlisten = 127.0.0.1:0\ncolour = blue\n' >"$dir/node.conf"
refused 2 'line 5' "$skerry" node --dir "$dir/nobody" --config "$dir/node.conf" --admin "$dir/e.sock"
printf '[log]\nlevel = loud\n' >"$dir/node.conf"
refused 2 'line 2' "$skerry" node --dir "$dir/nobody" --config "$dir/node.conf" --admin "$dir/e.sock"
for line in 'scrub_period = 14' 'scrub_period = 0d' 'scrub_period = 367d' 'scrub_period = d' \
    'scrub_rate = 4K' 'discard = maybe'; do
    printf '[disk]\nscrub_period = 90m\nscrub_period = off\nscrub_rate = 8M\ndiscard = on\n%s\n' \
        "$line" >"$dir/node.conf"
    refused 2 'line 6' "$skerry" node --dir "$dir/nobody" --config "$dir/node.conf" --admin "$dir/e.sock"
done
printf '[node]\nfoo = 1\nbar = 2\n' >"$dir/node.conf"
refused 2 'line 2: .*foo' "$skerry" node --dir "$dir/nobody" --config "$dir/node.conf" --admin "$dir/e.sock"
printf '[node]\nname nobody\nbar = 2\n' >"$dir/node.conf"
refused 2 'line 2: this is no' "$skerry" node --dir "$dir/nobody" --config "$dir/node.conf" --admin "$dir/e.sock"
printf '[node]\n\nbar = 2\n' >"$dir/nobody/node.conf"
refused 2 'nobody/node.conf line 3' "$skerry" node --dir "$dir/nobody" --admin "$dir/e.sock"
rm "$dir/nobody/node.conf"
echo precious >"$dir/file"
refused 1 'File exists' "$skerry" node --dir "$dir/nobody" --admin "$dir/file" --nbd off
grep -qx precious "$dir/file" || fail "a file in the place of the admin socket was removed"
refused 2 'UTF-8' "$skerry" node --dir "$dir/nobody" --admin "$dir/"$'\xff' --nbd off

# A node whose log is gone must not vote again under its number.
"$skerry" init --dir "$dir/wiped" --name wiped --listen "127.0.0.1:$(free_port)" >/dev/null
rm -r "$dir/wiped/raft"
refused 1 'is gone' "$skerry" node --dir "$dir/wiped" --admin "$dir/e.sock" --nbd off

# A join that the cluster heard of and this machine did not: tried again, it is the same join.
mkdir -p "$dir/cut/identity.new"
refused 1 'cannot write' "$skerry" join "$token" --dir "$dir/cut" --name cut --listen "127.0.0.1:$(free_port)"
rmdir "$dir/cut/identity.new"
"$skerry" join "$token" --dir "$dir/cut" --name cut --listen "127.0.0.1:$(free_port)" >/dev/null ||
    fail "a join that was cut off cannot be tried again"
refused 4 'named n2 already' "$skerry" join "$token" --dir "$dir/cut2" --name n2 --listen "127.0.0.1:$(free_port)"

# Images.
cli() { "$skerry" --admin "$admin" "$@"; }
refused 2 'not a name' "$skerry" --admin "$admin" image create '@home' 1G
refused 2 'not a name' "$skerry" --admin "$admin" image create "$(printf 'x%.0s' $(seq 129))" 1G
refused 2 'multiple of 512' "$skerry" --admin "$admin" image create x 1000
refused 2 'more than anything' "$skerry" --admin "$admin" image create x 8192P
long=$(printf 'x%.0s' $(seq 128))
cli image create "$long" 1M >/dev/null || fail "a name of 128 letters"
qemu-img info "$(of 0 nbd)/$long" >/dev/null || fail "an export's name of 128 letters"
cli image delete "$long" --yes >/dev/null
refused 3 'no pool' "$skerry" --admin "$admin" image create x 1G --pool nonsense
refused 3 'no image' "$skerry" --admin "$admin" image show nonsense
refused 3 'no pool' "$skerry" --admin "$admin" pool show nonsense
refused 3 'no image' "$skerry" --admin "$admin" image delete nonsense --yes

# Disks: of another cluster, with data, too small, and a host without room.
cp --sparse=always "$(of 0 dir)/disk" "$dir/copy"
"$skerry" node --dir "$dir/nobody" --admin "$dir/e.sock" --nbd "127.0.0.1:$(free_port)" >>"$dir/nobody.log" 2>&1 &
pids+=($!)
lone() { "$skerry" --admin "$dir/e.sock" -o json status; }
until_true 20 lone || fail "the lone node does not answer"
refused 6 'is in use' "$skerry" --admin "$(of 1 admin)" disk add "$(of 0 dir)/disk"
[ ! -e "$(of 1 dir)/osd/1" ] || fail "a disk that another node serves is linked here"
refused 6 'belongs to another cluster' "$skerry" --admin "$dir/e.sock" disk add "$dir/copy"
head -c 128M /dev/urandom >"$dir/data"
refused 6 'not empty' "$skerry" --admin "$dir/e.sock" disk add "$dir/data"
refused 2 'at least' "$skerry" --admin "$dir/e.sock" disk add "$dir/small" --size 1M
refused 2 'neither a file nor' "$skerry" --admin "$dir/e.sock" disk add "$dir"
refused 2 'it is a directory' "$skerry" --admin "$dir/e.sock" disk add "$dir"
refused 2 'less than 16 TiB' "$skerry" --admin "$dir/e.sock" disk add "$dir/large" --size 16T
[ ! -e "$dir/small" ] || fail "a refused disk was made all the same"
if [ "$(id -u)" = 0 ] && mkdir "$dir/full" && mount -t tmpfs -o size=100m none "$dir/full" 2>/dev/null; then
    mounts+=("$dir/full")
    refused 1 'no room' "$skerry" --admin "$dir/e.sock" disk add "$dir/full/disk" --size 200M
    [ ! -e "$dir/full/disk" ] || fail "a disk that found no room was left behind"
    "$skerry" init --dir "$dir/full/node" --name full --listen "127.0.0.1:$(free_port)" >/dev/null
    head -c 70M /dev/zero >"$dir/full/fill"
    refused 1 'is full' "$skerry" node --dir "$dir/full/node" --admin "$dir/f.sock" --nbd "127.0.0.1:$(free_port)"
else
    echo "not tried (no root, or no mounts): a full file system"
fi
# None of these has used up a number; nor does an attempt that is cut off after it got one.
[ "$("$skerry" --admin "$dir/e.sock" -o json osd list | jq length)" = 0 ] || fail "a refused disk has a number"
mkdir -p "$dir/nobody/osd/1"
refused 1 'cannot link' "$skerry" --admin "$dir/e.sock" disk add "$dir/again" --size 128m
rmdir "$dir/nobody/osd/1"
"$skerry" --admin "$dir/e.sock" disk add "$dir/again" --size 128m | grep -q 'osd.1 of' || fail "trying again gave another number"
"$skerry" --admin "$dir/e.sock" disk add "$dir/copy" --yes >/dev/null || fail "--yes does not overwrite a foreign disk"

# Strangers at the ports: garbage, half a handshake, silence, and hang-ups.
cli image create vol 64M >/dev/null
python3 - "$nbd_port" "${listen##*:}" "$admin" <<'PY'
import os, socket, sys
nbd, internal = int(sys.argv[1]), int(sys.argv[2])
def tcp(port):
    s = socket.create_connection(("127.0.0.1", port)); s.settimeout(2); return s
held = []
for port in (nbd, internal):
    for data in (b"", b"\0", b"GET / HTTP/1.0\r\n\r\n", os.urandom(70000), b"\xff" * 4096):
        s = tcp(port)
        try:
            s.sendall(data); s.recv(64)
        except OSError:
            pass
        s.close()
    held += [tcp(port) for _ in range(40)]                       # silence
# NBD: the greeting, then options cut off at every byte.
option = b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7" + b"\0\0\0\x0b" + b"\0\0\0\3vol" + b"\0\0\0\0"
for cut in range(len(option)):
    s = tcp(nbd); s.recv(18); s.sendall(option[:cut]); s.close()
for _ in range(30):                                              # and a huge length
    s = tcp(nbd); s.recv(18)
    try:
        s.sendall(b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7" + b"\xff\xff\xff\xff" + b"x" * 1000); s.recv(64)
    except OSError:
        pass
    s.close()
for data in (b"\0" * 1000, b"GET /api/v1/status HTTP/1.0\r\n", b"POST /api/v1/images HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n", os.urandom(5000)):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[3]); s.sendall(data); s.close()
PY
curl_api() { curl -s -o "$dir/api.out" -w '%{http_code} %{content_type}' --unix-socket "$admin" "$@"; }
if command -v curl >/dev/null; then
    [ "$(curl_api http://x/api/v1/nonsense)" = "404 application/problem+json" ] || fail "an unknown route"
    [ "$(curl_api http://x/)" = "404 application/problem+json" ] || fail "the root"
    [ "$(curl_api -X PUT http://x/api/v1/images)" = "405 application/problem+json" ] || fail "an unknown method"
    jq -e '.error.code == "method_not_allowed" and (.error.why | test("GET, POST")) and .error.action' "$dir/api.out" >/dev/null || fail "an unknown method is not explained"
    [ "$(curl_api -d '{' http://x/api/v1/images)" = "400 application/problem+json" ] || fail "half a body"
    [ "$(curl_api -d '{"name": "x", "size_bytes": 4096, "colour": 1}' http://x/api/v1/images)" = "400 application/problem+json" ] || fail "an unknown key"
    grep -q colour "$dir/api.out" || fail "an unknown key is not named"
    [ "$(curl_api -d '{"name": "x", "size_bytes": "4096"}' http://x/api/v1/images)" = "400 application/problem+json" ] || fail "a size that is a string"
    grep -q size_bytes "$dir/api.out" || fail "a value of the wrong kind is not named"
    [ "$(curl_api -d '{"name": "x", "size_bytes": -1}' http://x/api/v1/images)" = "400 application/problem+json" ] || fail "a negative size"
fi
refused 1 '' qemu-img info "$(of 0 nbd)/"
refused 1 '' qemu-img info "$(of 0 nbd)/nonsense"
qemu-img info "$(of 0 nbd)/vol" >/dev/null || fail "NBD serves no more after the strangers"
until_true 20 is_whole 0 || fail "the cluster is not whole after the strangers"
for i in 0 1 2; do [ "$(node_pid "$(of $i dir)")" = "$(of $i pid)" ] && kill -0 "$(of $i pid)" || fail "node $i is gone"; done
demo_stop
refused 2 'holds a demo of 3 nodes' "$skerry" demo --dir "$dir/demo" --nodes 5
[ -e "$(of 0 dir)/identity" ] || fail "a refused demo removed what an earlier one had kept"
