# shellcheck shell=bash disable=SC2034
# The Debian packages that building, showing and testing Skerry need; sourced by deploy/quickstart.sh
# and tests/run.sh.

PACKAGES_BUILD="gcc libc6-dev cmake ninja-build pkg-config liburing-dev libisal-dev libgnutls28-dev
libraft-dev libuv1-dev libsqlite3-dev libmsgpack-dev libjansson-dev libmicrohttpd-dev
libcurl4-gnutls-dev libinih-dev"
PACKAGES_SHOW="qemu-utils e2fsprogs jq procps"
PACKAGES_TEST="libcmocka-dev clang-14 llvm-14 libclang-rt-14-dev clang-format-14 binutils python3 fio libnbd-bin
nbdkit qemu-system-common util-linux iproute2"

# packages_install WHAT PACKAGE...: installs those that are missing, says so first, and lets none of
# them start a service meanwhile.
packages_install() {
    local what=$1 missing="" package sudo="" policy=/usr/sbin/policy-rc.d ours="" rc=0
    shift
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "Installing $what:$missing"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "error: these packages are missing, and only root can install them" >&2
            return 5
        }
        sudo="sudo"
    fi
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null && $sudo chmod 755 $policy
        ours=1
    fi
    # shellcheck disable=SC2086
    { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 \
            install --no-install-recommends $missing >/dev/null; } || rc=1
    [ -z "$ours" ] || $sudo rm -f $policy
    [ $rc = 0 ] || echo "error: apt-get could not install them" >&2
    return $rc
}
