#!/bin/sh
# Sets up what the make targets need, as far as it is missing, and says what it does.
#
#   tools/setup.sh build    what building, installing and linting need
#   tools/setup.sh test     that, and what the tests and the demo need
#
# System packages come through apt-get; on other systems they are only named. Everything else goes
# into .venv. When all is there it changes nothing and prints nothing.
set -eu

cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # where ip and bpftool are, which a user's PATH may lack
export PATH

what=${1:-}
missing=

main() {
    case $what in
    build | test) ;;
    *) fail "usage: tools/setup.sh build|test" ;;
    esac

    # The one list of system packages: package, why, and how to see that it is there.
    need ca-certificates "pip checks the package index's identity with them" has_certificates
    need python3 "runs everything; 3.11 or newer" python
    need python3-venv "keeps the Python packages of this project in .venv" has_venv
    need clang "compiles the BPF programs, llvm-strip strips them; 14 or newer" has_clang
    if [ "$what" = test ]; then
        need iproute2 "network namespaces for the tests and the demo" has ip
        need bpftool "a second opinion on what the kernel has loaded" bpftool_works
        need curl "a program to limit in the tests" has curl
        need iperf3 "another" has iperf3
    fi

    [ -z "$missing" ] || install_packages
    stamp="$PWD $(readlink -f "$(python)") $(cat pyproject.toml constraints-dev.txt tools/setup.sh | sha256sum)"
    [ "$(cat .venv/setup-stamp 2>/dev/null)" = "$stamp" ] || make_venv
    [ "$what" = build ] || bpftool_works >/dev/null 2>&1 || link_bpftool
}

need() { # PACKAGE WHY CHECK...
    package=$1 why=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    [ -n "$missing" ] || say "Missing on this system:"
    missing="$missing $package"
    say "  $package: $why"
}

has() { command -v "$1" >/dev/null 2>&1; }

has_certificates() {
    for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        [ ! -s "$bundle" ] || return 0
    done
    return 1
}

# Prints the Python to use: the distribution's if it is new enough, else the caller's.
python() {
    for candidate in /usr/bin/python3 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

has_venv() { [ -e .venv/setup-stamp ] || "$(python)" -c 'import ensurepip, venv'; }

has_clang() {
    [ -z "${CLANG:-}" ] || return 0 # the build says whether that one will do
    for version in 22 21 20 19 18 17 16 15 14; do
        ! { has "clang-$version" && has "llvm-strip-$version"; } || return 0
    done
    has clang && has llvm-strip
}

# Ubuntu has a /usr/sbin/bpftool that only looks for the running kernel's own.
bpftool_works() { bpftool version || .venv/bin/bpftool version; }

install_packages() {
    has apt-get || fail "Install these with your package manager, then run make again."
    as_root apt-get update || say "apt-get update failed for some source; trying with the lists there are."
    packages=
    for package in $missing; do
        case $package in
        clang) packages="$packages $(clang_packages)" ;;
        bpftool) packages="$packages $(bpftool_packages)" ;;
        *) packages="$packages $package" ;;
        esac
    done
    say "Installing:$packages"
    # The lock timeout: a freshly started machine may be upgrading itself.
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 $packages </dev/null ||
        fail "apt-get could not install:$packages (on Ubuntu they need the component 'universe')"
}

available() { apt-cache policy "$1" | grep -q '^  Candidate: [0-9]'; }

# Releases are built with clang-19; without it, the newest there is. llvm-N has llvm-strip.
clang_packages() {
    for version in 19 22 21 20 18 17 16 15 14; do
        if available "clang-$version"; then
            echo "clang-$version llvm-$version"
            return
        fi
    done
    echo "clang llvm"
}

bpftool_packages() {
    if available bpftool; then
        echo bpftool
    else
        echo "linux-tools-common linux-tools-generic" # Ubuntu 24.04
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        fail "Installing packages needs root, and there is no sudo: run make as root."
    fi
}

make_venv() {
    say "Setting up .venv with the Python packages in constraints-dev.txt"
    "$(python)" -m venv --clear .venv || fail "could not create .venv"
    # In two steps and without isolation, so that the build backend too is the one that is pinned.
    pip_install hatchling editables
    pip_install --no-build-isolation --editable '.[dev]'
    echo "$stamp" >.venv/setup-stamp # last: what was interrupted is done again
}

pip_install() {
    .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints-dev.txt "$@" ||
        fail "pip could not install: $*"
}

# Ubuntu again: any kernel's bpftool will do, when the running kernel has none of its own.
link_bpftool() {
    for candidate in /usr/lib/linux-tools*/bpftool /usr/lib/linux-tools/*/bpftool; do
        [ -x "$candidate" ] && ln -sf "$candidate" .venv/bin/bpftool && return
    done
    fail "no bpftool that works was found, although its package is installed"
}

say() { printf '%s\n' "$*"; }

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

main
