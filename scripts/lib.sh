# lib.sh - what the scripts share: where the tree is, one-sentence failure, configuring and building a preset.
# Sourced, never run.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# die SENTENCE: says why the script cannot go on, and what to do, then ends it.
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# build_preset PRESET FOLDER [CMAKE OPTION...]: configures FOLDER by the preset and builds it; false on failure.
# A folder that was configured from elsewhere or for another generator is configured afresh.
build_preset() {
    local preset=$1 folder=$repository/$2 fresh=
    shift 2
    if [ -f "$folder/CMakeCache.txt" ] &&
        ! { grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$repository" "$folder/CMakeCache.txt" &&
            grep -qxF "CMAKE_GENERATOR:INTERNAL=Ninja" "$folder/CMakeCache.txt"; }; then
        fresh=--fresh
    fi
    (cd "$repository" && cmake --preset "$preset" $fresh "$@") && cmake --build "$folder" --parallel "$(nproc)"
}
