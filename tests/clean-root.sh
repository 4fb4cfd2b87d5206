#!/bin/bash
# Both commands of the README in a Debian 12 that has nothing but itself: a minimal root made by
# mmdebstrap, with a copy of what is committed.
#
#   tests/clean-root.sh [MIRROR]
#
# SKERRY_STAGES: only these stages of tests/run.sh (see there). Needs root, mmdebstrap, and about 4 GB in TMPDIR. MIRROR: the one of this machine unless given.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }
command -v mmdebstrap >/dev/null || { echo "skipped: no mmdebstrap"; exit 77; }

root=$(mktemp -d "${TMPDIR:-/tmp}/skerry-root-XXXXXX")
cleanup() {
    local rc=$?
    trap - EXIT INT TERM
    for mount in dev proc sys; do umount "$root/$mount" 2>/dev/null || true; done
    # Never remove what is still mounted.
    grep -q " $root/" /proc/mounts || rm -rf "$root"
    exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ $# -gt 0 ]; then
    mmdebstrap --variant=minbase bookworm "$root" "$1"
else
    mmdebstrap --variant=minbase bookworm "$root"
fi
# The same sources, keys and way out to the network as here.
for file in /etc/resolv.conf /etc/hosts; do cp -L $file "$root$file"; done
cp -rL /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
if [ $# = 0 ]; then
    rm -rf "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d"
    cp -rL /etc/apt/sources.list* "$root/etc/apt/"
    cp -rL /etc/apt/trusted.gpg.d /etc/apt/keyrings "$root/etc/apt/" 2>/dev/null || true
    cp -rL /usr/share/keyrings "$root/usr/share/" 2>/dev/null || true
    mkdir -p "$root/usr/local/share/ca-certificates" "$root/etc/ssl"
    cp -rL /etc/ssl/certs "$root/etc/ssl/" 2>/dev/null || true
fi
mkdir -p "$root/skerry"
git archive HEAD | tar -x -C "$root/skerry"
mount -t proc none "$root/proc"
mount -t sysfs none "$root/sys"
mount --bind /dev "$root/dev"

run() { env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LC_ALL=C.UTF-8 ${http_proxy:+http_proxy=$http_proxy} ${https_proxy:+https_proxy=$https_proxy} chroot "$root" "$@"; }
begin=$SECONDS
run /skerry/deploy/quickstart.sh
echo "clean root: deploy/quickstart.sh held, $((SECONDS - begin)) s"
begin=$SECONDS
# shellcheck disable=SC2086
run /skerry/tests/run.sh ${SKERRY_STAGES:-}
echo "clean root: tests/run.sh held, $((SECONDS - begin)) s"
