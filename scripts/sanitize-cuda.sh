#!/usr/bin/env bash
# sanitize-cuda.sh - conformance cases of every kernel family of the CUDA backend under compute-sanitizer.
#   scripts/sanitize-cuda.sh BUILD [TOOL...]      tools: memcheck racecheck initcheck synccheck; all of them by default
# BUILD is a build folder, or any folder with test_conformance in it. KASCADE_SANITIZE_FILTER replaces the cases,
# KASCADE_SANITIZE_SECONDS the limit for each tool. Fails when a tool reports an error, a case fails or none ran.
set -u

usage() {
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[ $# -ge 1 ] || usage
build=$1
shift
[ $# -gt 0 ] || set -- memcheck racecheck initcheck synccheck
test=$build/tests/conformance/test_conformance
[ -x "$test" ] || test=$build/test_conformance
[ -x "$test" ] || { echo "sanitize-cuda.sh: no test_conformance in $build" >&2; exit 2; }
if ! command -v compute-sanitizer >/dev/null; then
    echo "sanitize-cuda.sh: compute-sanitizer is not on the PATH" >&2
    exit 2
fi

# Parts of the set, a process each at the same time. Head dimension 128 has tuned and generic rows of every operation.
# In prefill a row does in a layer what it does by itself, save with estimated normalisers; decode of an anchor by teams
# is there in layers alone.
shape='d128_[^/]*'
parts=(
    "^(attend|lse|select|mass)/[a-z]*/f16/$shape/plain@"
    "^(scores|lists)/[a-z]*/f16/$shape/plain@"
    "^layers/decode/f16/$shape/plain@"
    "^layers/decode/b?f16/$shape/page16@best"
    "^layers/prefill/f16/$shape/plain@best"
    "^layers/prefill/b?f16/$shape/page16@best"
    "^layers/prefill/b?f16/$shape/estimated@(lse|scores)_wgmma"
    "^layers/prefill/b?f16/$shape/estimated@(lse|scores)_generic"
    "^layers/prefill/b?f16/$shape/estimated@scores_mma"
)
[ -z "${KASCADE_SANITIZE_FILTER:-}" ] || parts=("$KASCADE_SANITIZE_FILTER")
seconds=${KASCADE_SANITIZE_SECONDS:-600}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# Queries of the driver that fail by design (no such device, no such function) are no errors of ours.
run_part() { # TOOL PART
    timeout "$seconds" compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 --print-limit 20 \
        "$test" --device cuda:0 --quick --jobs 1 --filter "${parts[$2]}" >"$logs/$2" 2>&1
    echo $? >"$logs/$2.code"
}

# Fails unless the part ended well; adds its cases to `passed`.
check_part() { # TOOL PART
    local code cases summary
    code=$(cat "$logs/$2.code")
    cases=$(sed -n 's/.*: \([0-9]*\) passed, [0-9]* failed.*/\1/p' "$logs/$2")
    summary=$(sed -n 's/^========= \(.*SUMMARY.*\)/\1/p' "$logs/$2" | tail -1)
    passed=$((passed + ${cases:-0}))
    [ "$code" -ne 0 ] || [ "${cases:-0}" -eq 0 ] || return 0
    echo "$1: exit status $code, ${cases:-no} cases passed, ${summary:-no summary}: ${parts[$2]}"
    grep -v '^untested' "$logs/$2" | head -40
    return 1
}

status=0
for tool in "$@"; do
    passed=0 bad=0 begin=$SECONDS
    for part in "${!parts[@]}"; do
        run_part "$tool" "$part" &
    done
    wait
    for part in "${!parts[@]}"; do
        check_part "$tool" "$part" || bad=$((bad + 1))
    done
    echo "$tool: $passed cases passed, $bad of ${#parts[@]} parts failed, $((SECONDS - begin)) s"
    [ "$bad" -eq 0 ] || status=1
done
exit $status
