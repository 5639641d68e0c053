#!/bin/sh
# quality.sh - makes the numbers of docs/quality.md: calibrates the bundled model on one part of this project's text and
# reads another with what came of it. Takes about ten minutes of two processors. Usage: scripts/quality.sh KASCADE
# FOLDER; SEARCH_TEXT replaces the text that calibration reads, TEXT that of the table.
set -eu
kascade=$1
folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
bundled=$root/plans/pico-qwen3.json
search_text=${SEARCH_TEXT:-$root/core}
mkdir -p "$folder"

"$kascade" calibrate --text "$search_text" --objective similarity --anchors 6 --each -o "$folder/similar.json" \
    >"$folder/similar.txt"
"$kascade" calibrate --text "$search_text" --objective loss --anchors 4 --prompts 4 --search-texts 1 --finalists 3 \
    --held-out 1 --each -o "$folder/refined.json" >"$folder/refined.txt"
sed 's/"pooling"/"normalizer": "estimated", "pooling"/' "$bundled" >"$folder/estimated.json"
for tile in 64 128; do
    sed "s/\"tile\": 32/\"tile\": $tile/" "$bundled" >"$folder/tile$tile.json"
done
for share in 0.05 0.025; do
    sed "s/\"fraction\": 0.1,/\"fraction\": $share,/" "$bundled" >"$folder/share$share.json"
done
"$kascade" run --text "${TEXT:-$root/tools}" --context 16384 --texts "${TEXTS:-1}" \
    --baselines own-topk,identity-map,window "$folder/similar-2.json" "$folder/similar-3.json" \
    "$folder/similar-4.json" "$folder/similar-6.json" "$folder/refined-3.json" "$folder/refined-4.json" \
    "$folder/estimated.json" "$folder/tile64.json" "$folder/tile128.json" "$folder/share0.05.json" \
    "$folder/share0.025.json" --json >"$folder/quality.json"
