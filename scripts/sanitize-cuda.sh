#!/usr/bin/env bash
# sanitize-cuda.sh - conformance cases of every kernel family of the CUDA backend under compute-sanitizer, one case at a
# time.
#   scripts/sanitize-cuda.sh BUILD [TOOL...]      tools: memcheck racecheck initcheck synccheck; all of them by default
# BUILD is a build folder, or any folder with test_conformance in it. KASCADE_SANITIZE_FILTER replaces the cases,
# KASCADE_SANITIZE_SECONDS the limit for each tool. Fails when a tool reports an error, a case fails or none ran.
set -u

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
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

# Head dimension 128 has tuned and generic rows of every operation.
filter=${KASCADE_SANITIZE_FILTER:-'/f16/d128_[^/]*/plain@'}
seconds=${KASCADE_SANITIZE_SECONDS:-600}
status=0
for tool in "$@"; do
    log=$(mktemp)
    # Queries of the driver that fail by design (no such device, no such function) are no errors of ours.
    timeout "$seconds" compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 --print-limit 20 \
        "$test" --device cuda:0 --quick --jobs 1 --filter "$filter" >"$log" 2>&1
    code=$?
    cases=$(sed -n 's/.*: \([0-9]* passed, [0-9]* failed\).*/\1/p' "$log")
    summary=$(sed -n 's/^========= \(.*SUMMARY.*\)/\1/p' "$log" | tail -1)
    echo "$tool: ${cases:-no verdict}, exit status $code, ${summary:-no summary}"
    if [ $code -ne 0 ] || [ -z "$cases" ] || [ "${cases%% *}" = 0 ]; then
        grep -v '^untested' "$log" | head -40
        status=1
    fi
    rm -f "$log"
done
exit $status
