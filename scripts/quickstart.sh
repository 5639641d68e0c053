#!/usr/bin/env bash
# quickstart.sh [OPTION...] - installs what is missing, builds into build/, and runs the bundled model over 8,192 tokens,
# dense and with its anchor plan. Options are those of `kascade run`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$repository"
[ -s models/pico-qwen3/model.safetensors ] ||
    die "models/pico-qwen3/model.safetensors is missing or empty: this copy of the repository is incomplete"
scripts/deps.sh
build_preset release build || die "the build failed: the compiler's message is above; delete build/ to begin afresh"
exec build/kascade run "$@"
