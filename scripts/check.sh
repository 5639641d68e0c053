#!/usr/bin/env bash
# check.sh [--full] - installs what is missing, builds, and runs the quick tier of every test, or with --full everything.
# The last line counts the tests: "N passed, N failed, N skipped".
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tier=quick
case "${1-}" in
--full) tier='quick|full' ;;
'') ;;
*) die "'$1' is not an option; usage: scripts/check.sh [--full]" ;;
esac

passed=0
failed=0
skipped=0

# count_tests FOLDER: runs the tier's tests of a build and adds them up; a build in which none ran has failed.
count_tests() {
    local folder=$repository/$1 report ran
    report=$folder/tests.xml
    (cd "$folder" && ctest -j "$(nproc)" -L "^($tier)\$" --no-tests=error --output-on-failure --output-junit "$report") ||
        true
    ran=$(grep -c '<testcase ' "$report" 2>/dev/null) || ran=0
    [ "$ran" -gt 0 ] || die "no test ran in $1"
    local lost not_run
    lost=$(grep -c 'status="fail"' "$report") || true
    not_run=$(grep -cE 'status="(notrun|disabled)"' "$report") || true
    grep -E 'status="(notrun|disabled)"' "$report" | sed -E 's/.*name="([^"]*)".*/skipped: \1/' || true
    passed=$((passed + ran - lost - not_run))
    failed=$((failed + lost))
    skipped=$((skipped + not_run))
}

"$repository/scripts/deps.sh"
build_preset release build
count_tests build
build_preset asan out/asan
count_tests out/asan
[ "$tier" != quick ] || echo "this was the quick tier; scripts/check.sh --full runs everything"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
