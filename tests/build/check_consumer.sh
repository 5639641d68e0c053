#!/usr/bin/env bash
# check_consumer.sh ROOT BUILD [subproject] - a user's project builds and runs against the installed tree of BUILD, by
# CMake package (shared, static) and by pkg-config; with `subproject`, by add_subdirectory instead.
set -euo pipefail
root=$1 build=$2 route=${3-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# by_cmake ROUTE CMAKE_OPTION...
by_cmake() {
    cmake -S "$root/tests/build/consumer" -B "$work/$1" -G Ninja -DROUTE="$1" "${@:2}" >"$work/log" 2>&1 &&
        cmake --build "$work/$1" >"$work/log" 2>&1 || { cat "$work/log"; return 1; }
    "$work/$1/consumer"
    echo "$1: builds and runs"
}

if [ "$route" = subproject ]; then
    by_cmake subproject -DKASCADE_SOURCE="$root" -DKASCADE_CUDA=OFF -DKASCADE_VULKAN=OFF -DKASCADE_OPENCL=OFF
    exit
fi

# Moved after installing: nothing in the tree may know where it was put.
cmake --install "$build" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/prefix"
by_cmake package -DCMAKE_PREFIX_PATH="$work/prefix"
by_cmake static -DCMAKE_PREFIX_PATH="$work/prefix"

pc=$(dirname "$(find "$work/prefix" -name kascade.pc)")
libs=$(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs kascade)
# shellcheck disable=SC2086 # flags are words
cc "$root/tests/build/consumer/consumer.c" $libs -o "$work/by_pkg_config"
LD_LIBRARY_PATH=$(dirname "$pc") "$work/by_pkg_config"
echo "pkg-config: builds and runs"
[ ! -x "$build/kascade" ] || "$work/prefix/bin/kascade" --version
