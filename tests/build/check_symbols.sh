#!/usr/bin/env bash
# check_symbols.sh ROOT LIBRARY - the shared library exports the functions that kascade.h declares, and nothing else.
set -euo pipefail
declared=$(gcc -E -P -I "$1/include" "$1/include/kascade/kascade.h" | tr '\n' ' ' | tr ';{}' '\n\n\n' |
    grep -v typedef | grep -oE '\bkas_[a-z0-9_]+ ?\(' | tr -d ' (' | sort -u)
exported=$(nm -D --defined-only "$2" | awk '$2 ~ /[TDBRVWi]/ { sub(/@.*/, "", $3); print $3 }' | sort -u)
if ! diff <(echo "$declared") <(echo "$exported"); then
    echo "exported symbols differ from kascade.h (< declared, > exported)" >&2
    exit 1
fi
echo "$(echo "$exported" | wc -l) functions exported, all of them declared"
