#!/usr/bin/env bash
# deps.sh - installs, by package name, what building and testing needs on Debian 12 or Ubuntu 24.04. Packages that dpkg
# already knows are left alone; when nothing is missing nothing is asked of the network.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The library and the kascade command, CPU device only.
build_packages=(gcc libc6-dev cmake ninja-build pkg-config libcjson-dev libopenblas-dev)
# OpenCL and Vulkan: headers, shader compilers, and a device of each that runs on any processor (PoCL, lavapipe).
device_packages=(opencl-headers ocl-icd-opencl-dev pocl-opencl-icd
    libvulkan-dev mesa-vulkan-drivers glslc glslang-tools spirv-tools)
# The tests: cmocka, a C++ compiler for the public headers, clang for fuzzing, checkers of memory and of device use.
test_packages=(git g++ libcmocka-dev clang libclang-rt-dev valgrind vulkan-validationlayers)
# Cross compiling for 64-bit Arm and running the result: the full tier on other processors.
cross_packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libcjson-dev:arm64 libcmocka-dev:arm64)
# Taken where the distribution has them.
optional_packages=(oclgrind)

usage() {
    cat <<TEXT
usage: scripts/deps.sh [--minimal | --cross | --list]
Installs the packages that building and testing needs (Debian 12, Ubuntu 24.04; as root or through sudo).
  --minimal   only what the library and the kascade command need (CPU device, no tests)
  --cross     what building for 64-bit Arm and testing it under qemu needs; adds dpkg's architecture arm64
  --list      print the package names and install nothing
TEXT
}

is_installed() {
    local status
    status=$(dpkg-query -W -f='${db:Status-Status} ' "$1" 2>/dev/null) || return 1
    [[ " $status" == *" installed "* ]]
}

# Whether the package lists on this machine offer a version of the package.
is_offered() {
    local policy
    policy=$(apt-cache policy "$1" 2>/dev/null) || return 1
    [[ $policy == *"Candidate: "* && $policy != *"Candidate: (none)"* ]]
}

# Fills `missing` with the packages to install.
find_missing() {
    local package
    missing=()
    for package in "${required[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    for package in "${optional[@]}"; do
        if ! is_installed "$package" && is_offered "$package"; then
            missing+=("$package")
        fi
    done
}

# Fills `as_root` with the words that run a command as root.
find_root() {
    as_root=(env)
    [ "$(id -u)" -eq 0 ] && return
    command -v sudo >/dev/null || die "${missing[*]} must be installed: run this as root, or install sudo"
    as_root=(sudo env)
    if [ ! -t 0 ] && ! sudo -n true 2>/dev/null; then
        die "sudo asks for a password and there is no terminal: run 'sudo scripts/deps.sh' first"
    fi
}

apt_get() {
    "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

required=("${build_packages[@]}" "${device_packages[@]}" "${test_packages[@]}")
optional=("${optional_packages[@]}")
case "${1-}" in
--minimal)
    required=("${build_packages[@]}")
    optional=()
    ;;
--cross)
    required=("${cross_packages[@]}")
    optional=()
    ;;
--list)
    printf '%s\n' "${required[@]}" "${optional[@]}"
    exit 0
    ;;
-h | --help)
    usage
    exit 0
    ;;
'') ;;
*)
    usage >&2
    die "'$1' is not an option"
    ;;
esac

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    die "this system has no apt: install what 'scripts/deps.sh --list' names under your distribution's names, then" \
        "use CMake (CONTRIBUTING.md, Building)"

find_missing
if [ ${#missing[@]} -eq 0 ]; then
    echo "deps.sh: all ${#required[@]} packages are there"
    exit 0
fi
find_root
if [ "${1-}" = --cross ] && ! dpkg --print-foreign-architectures | grep -qx arm64; then
    echo "deps.sh: adding dpkg's architecture arm64"
    "${as_root[@]}" dpkg --add-architecture arm64 || die "dpkg cannot add the architecture arm64"
fi
echo "deps.sh: refreshing the package lists"
apt_get update || echo "deps.sh: apt-get update failed; going on with the lists that are there" >&2
find_missing
for package in "${missing[@]}"; do
    is_offered "$package" ||
        die "apt knows no package '$package': check the network and apt's sources (on Ubuntu, enable universe)"
done
echo "deps.sh: installing ${missing[*]}"
apt_get install -y --no-install-recommends "${missing[@]}" ||
    die "apt-get could not install the packages above: check the network and the free disk space, then run this again"
find_missing
[ ${#missing[@]} -eq 0 ] || die "apt-get reported success, but these are not installed: ${missing[*]}"
