#!/usr/bin/env bash
# check_readme.sh ROOT - the program in README.md is examples/01_cpu.c (which compiles and runs as a test), and every
# file that the documents link to exists.
set -euo pipefail
cd "$1"
diff <(sed -n '/^static kas_tensor/,$p' examples/01_cpu.c) \
    <(awk '/^```c$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md) >&2 ||
    { echo "README.md shows another program than examples/01_cpu.c" >&2; exit 1; }
missing=0
for document in *.md docs/*.md docs/conformance/*.md; do
    while read -r target; do
        [ -e "$(dirname "$document")/$target" ] || { echo "$document links to $target, which is not there" >&2; missing=1; }
    done < <(grep -oE '\]\([^)#:]+\)' "$document" | sed -E 's/^\]\(//; s/\)$//' || true)
done
[ "$missing" -eq 0 ]
echo "README.md and the links of the documents hold"
