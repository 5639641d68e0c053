#!/usr/bin/env bash
# check.sh [--full] - installs what is missing, builds, and runs the quick tier of every test, or with --full everything.
# Each step adds to the counts; the last line is "N passed, N failed, N skipped". A step in which nothing ran has failed,
# and so has a promised device that is not there.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

passed=0
failed=0
not_run=()
failures=()
times=()

# note passed|failed|skipped COUNT NAME: adds to the counts.
note() {
    case $1 in
    passed) passed=$((passed + $2)) ;;
    failed)
        failed=$((failed + $2))
        failures+=("$3")
        ;;
    skipped) not_run+=("$3") ;;
    esac
}

# timed NAME BEGIN: how long a phase took that began at BEGIN, said now and again at the end.
timed() {
    local took=$((SECONDS - $2))
    echo "==== $1: $took s"
    [ $took -eq 0 ] || times+=("$(printf '%5d s  %s' $took "$1")")
}

# step NAME COMMAND...: runs a command that counts as one test.
step() {
    local name=$1 begin=$SECONDS
    shift
    echo "==== $name"
    "$@"
    local status=$?
    timed "$name" "$begin"
    if [ $status -ne 0 ]; then
        note failed 1 "$name"
        return 1
    fi
    note passed 1 "$name"
}

# tests NAME FOLDER [CTEST OPTION...]: runs the tier's tests of a build and counts them by ctest's report. A CMocka group
# counts by its cases, so that a case skipped inside a group is named.
tests() {
    local name=$1 folder=$repository/$2 begin=$SECONDS report verdict count what
    shift 2
    report=$folder/tests.xml
    rm -f "$report"
    echo "==== $name"
    ctest --test-dir "$folder" -j "$(nproc)" -L "^($tier)\$" --no-tests=error --timeout "$test_limit" \
        --test-output-size-passed 1000000 --output-on-failure --output-junit "$report" "$@"
    timed "$name" "$begin"
    if ! grep -q '<testcase ' "$report" 2>/dev/null; then
        note failed 1 "$name: no test ran"
        return 1
    fi
    while read -r verdict count what; do
        note "$verdict" "$count" "$name: $what"
    done < <(awk -f "$repository/scripts/count_tests.awk" "$report")
}

# conformance DEVICE [FILTER [TIER]]: a device's rows against the oracle; in the quick tier only the cases that FILTER
# matches, of the conformance tier TIER (quick).
conformance() {
    local tool=$repository/build/tests/conformance/test_conformance options=(--device "$1") begin=$SECONDS count what log
    if [ "$tier" = quick ] && [ -n "${2-}" ]; then
        options+=("--${3-quick}" --filter "$2")
        echo "conformance on $1: reduced to the ${3-quick} tier's cases that match $2"
    else
        options+=(--quick)
    fi
    # The CPU device uses all processors by itself; the others leave some to the oracle.
    [ "$1" = cpu ] || options+=(--jobs "$(nproc)")
    log=$repository/out/conformance-$1.log
    mkdir -p "$repository/out"
    echo "==== conformance on $1"
    timeout "$test_limit" "$tool" "${options[@]}" >"$log" 2>&1
    local status=$?
    tail -n 40 "$log"
    timed "conformance on $1" "$begin"
    if ! grep -qE '[0-9]+ passed, [0-9]+ failed' "$log"; then
        note failed 1 "conformance on $1: ended with status $status and no summary, see $log"
        return 1
    fi
    count=$(sed -nE 's/.* ([0-9]+) passed, .*/\1/p' "$log" | tail -n 1)
    note passed "$count" "conformance on $1"
    count=$(sed -nE 's/.* ([0-9]+) failed, .*/\1/p' "$log" | tail -n 1)
    [ "$count" -eq 0 ] && [ "$status" -ne 0 ] && count=1
    [ "$count" -eq 0 ] || note failed "$count" "conformance on $1: $count failures, see $log"
    while read -r what; do
        note skipped 1 "conformance on $1: $what"
    done < <(sed -nE 's/^(skipped|untested:?) //p' "$log")
}

# The seconds that one input may take. libFuzzer counts elapsed time, and the slowest inputs, which take some seconds of
# a processor, may have to share it: what is to be found here never ends.
fuzz_limit=300

# fuzz SECONDS: every fuzz target from a copy of its seeds, all at the same time, for SECONDS of processor time in all.
# Drivers are hidden: PoCL's compiler would take the signal by which libFuzzer learns that an input failed, and the input
# would be lost.
fuzz() {
    local folder=$repository/out/fuzz targets=() target name together begin
    local -x OCL_ICD_VENDORS=/nonexistent VK_DRIVER_FILES=/nonexistent
    if ! command -v clang >/dev/null; then
        note skipped 1 "fuzzing: clang is not installed"
        return
    fi
    step "fuzz build" build_preset fuzz out/fuzz -DKASCADE_TOOLS=OFF -DKASCADE_EXAMPLES=OFF || return
    for target in "$folder"/tests/fuzz/fuzz_*; do
        [ -f "$target" ] && [ -x "$target" ] && targets+=("$target")
    done
    if [ ${#targets[@]} -eq 0 ]; then
        note failed 1 "fuzzing: no target was built"
        return
    fi
    together=$(($(nproc) < ${#targets[@]} ? $(nproc) : ${#targets[@]}))
    echo "==== fuzzing: ${#targets[@]} targets at once for $(($1 / together)) s"
    begin=$SECONDS
    for target in "${targets[@]}"; do
        name=$(basename "$target")
        mkdir -p "$folder/corpus/$name"
        (
            "$target" -max_total_time=$(($1 / together)) -print_final_stats=1 -timeout="$fuzz_limit" \
                -artifact_prefix="$folder/$name-" "$folder/corpus/$name" "$repository/tests/fuzz/corpus/${name#fuzz_}"
            echo $? >"$folder/$name.status"
        ) >"$folder/$name.log" 2>&1 &
    done
    wait
    timed fuzzing "$begin"
    for target in "${targets[@]}"; do
        name=$(basename "$target")
        step "$name" show_fuzzed "$folder/$name"
    done
}

# show_fuzzed PREFIX: the end of a target's log and its exit status.
show_fuzzed() {
    tail -n 30 "$1.log"
    return "$(cat "$1.status")"
}

# validated KINDS FILTER: small cases on vulkan under the validation layers with KINDS of checks; no message may come.
validated() {
    local settings=$repository/out/vk_layer_settings.txt log=$repository/out/validation.log
    mkdir -p "$repository/out"
    {
        echo "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG"
        echo "khronos_validation.report_flags = error,warn,perf"
        echo "khronos_validation.log_filename = stdout"
        echo "khronos_validation.enables = $1"
    } >"$settings"
    VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_SETTINGS_PATH=$settings timeout "$test_limit" \
        "$repository/build/tests/conformance/test_conformance" --device vulkan --small --filter "$2" >"$log" 2>&1
    local status=$?
    tail -n 1 "$log"
    ! grep -F Validation "$log" && [ "$status" -eq 0 ]
}

# Unit tests under valgrind, which sees uninitialised reads that the sanitizers do not. Drivers are hidden, because they
# leak; test_model, which reads 3,000 tokens, would take a quarter of an hour, and test_layouts runs the same code.
valgrind_units() {
    local test found=1
    local -x OCL_ICD_VENDORS=/nonexistent VK_DRIVER_FILES=/nonexistent
    for test in "$repository"/build/tests/unit/test_*; do
        [ -f "$test" ] && [ -x "$test" ] && [ "$(basename "$test")" != test_model ] || continue
        found=0
        (cd "$(dirname "$test")" && valgrind -q --error-exitcode=9 --leak-check=full \
            --errors-for-leak-kinds=definite "$test") || return 1
    done
    return $found
}

# OpenCL's generic rows in a simulator that watches for data races between work items. Its compiler's optimised code has
# instructions that it does not know.
oclgrind_rows() {
    local icd=/usr/lib/oclgrind/liboclgrind-rt-icd.so log=$repository/out/oclgrind.log
    if [ ! -e "$icd" ]; then
        note skipped 1 "data races in OpenCL kernels: oclgrind is not installed"
        return
    fi
    step "data races in OpenCL kernels" watched_rows "$icd" "$log"
    step "uninitialised reads in OpenCL kernels" defined_rows "$icd" "$repository/out/oclgrind-uninitialised.log"
}

# Oclgrind 21.10 forgets what kernels have written to a buffer that any command wrote before: even a constant, read back
# by the item that stored it, counts as uninitialised. Kernels that read what another kernel left are therefore not
# judged: merge and pool here, scores not run. The others read the caller's data and their own local memory.
defined_rows() {
    local prefill='^(attend|lse|select|lists|mass)/prefill/.*/long@generic'
    local decode='^(attend|scores|lists|select)/decode/f32/d37_.*/plain@generic'
    OCL_ICD_FILENAMES=$1 OCL_ICD_VENDORS=$1 OCLGRIND_UNINITIALIZED=1 OCLGRIND_MAX_ERRORS=1000000 \
        OCLGRIND_BUILD_OPTIONS=-O0 timeout "$test_limit" \
        "$repository/build/tests/conformance/test_conformance" --device opencl:0 --quick \
        --filter "$prefill|$decode" >"$2" 2>&1
    local status=$?
    tail -n 1 "$2"
    [ "$status" -eq 0 ] && ! grep 'Kernel: ' "$2" | grep -vE 'kas_(merge|pool)$' | sort | uniq -c | grep .
}

watched_rows() {
    OCL_ICD_FILENAMES=$1 OCL_ICD_VENDORS=$1 OCLGRIND_DATA_RACES=1 OCLGRIND_BUILD_OPTIONS=-O0 timeout "$test_limit" \
        "$repository/build/tests/conformance/test_conformance" --device opencl:0 --quick \
        --filter '/decode/f32/d37_.*/plain@generic|/prefill/.*/(one_key|long)@generic' >"$2" 2>&1
    local status=$?
    tail -n 20 "$2"
    [ "$status" -eq 0 ] && ! grep -qi 'data race\|oclgrind\|invalid' "$2"
}

# The CPU device of another processor: built by a cross compiler, run under qemu, which takes conformance's short tier.
other_processor() {
    local folder=out/aarch64
    if [ "$(uname -m)" != x86_64 ]; then
        note skipped 1 "64-bit Arm: cross compiled on x86-64 alone"
        return
    fi
    step "cross compiler" "$repository/scripts/deps.sh" --cross || return
    step "64-bit Arm build" build_preset aarch64 "$folder" || return
    echo "64-bit Arm: conformance on an emulated processor is reduced to the short tier"
    tests "64-bit Arm tests" "$folder" -R '^(unit\.|conformance_cpu_quick)'
}

# The main job as quickstart.sh runs it.
main_job() {
    "$repository/build/kascade" run
}

finish() {
    local what
    echo
    for what in ${times[@]+"${times[@]}"}; do
        echo "$what"
    done
    for what in ${not_run[@]+"${not_run[@]}"}; do
        echo "skipped: $what"
    done
    for what in ${failures[@]+"${failures[@]}"}; do
        echo "FAILED: $what"
    done
    [ "$tier" != quick ] ||
        echo "this was the quick tier: scripts/check.sh --full adds the full tier, thread sanitizer, valgrind, more fuzzing"
    [ $((passed + failed)) -gt 0 ] || note failed 1 "nothing ran"
    echo "took $((SECONDS / 60)) min $((SECONDS % 60)) s"
    echo "$passed passed, $failed failed, ${#not_run[@]} skipped"
    [ "$failed" -eq 0 ]
    exit
}

tier=quick
test_limit=300
case "${1-}" in
--full)
    tier='quick|full'
    test_limit=3600
    ;;
'') ;;
*) die "'$1' is not an option; usage: scripts/check.sh [--full]" ;;
esac

# GCC 13.2 (Ubuntu 24.04) misaligns vectors of 64 bytes on the stack that finds uses after return.
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0
export UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$repository/tests/build/lsan.supp:print_suppressions=0

"$repository/scripts/deps.sh" || die "the packages above are needed"
step "release build" build_preset release build -DKASCADE_OPENCL=ON -DKASCADE_VULKAN=ON || finish
tests "release tests" build -E '^conformance'
conformance cpu
# PoCL and lavapipe are slow, for they compile every kernel: here every operation and row of a shape or two, the rest by
# --full.
conformance opencl '^select/|/f16/d64_g2_r1_t64/ragged@'
conformance vulkan '^select/|d(32|37)_.*/(plain|ragged)@' small
# The command and the model host take as long to build as all the rest: they are left to the full tier.
[ "$tier" = quick ] && with_tools=OFF || with_tools=ON
step "asan build" build_preset asan out/asan -DKASCADE_TOOLS=$with_tools -DKASCADE_EXAMPLES=OFF &&
    tests "asan tests" out/asan -R '^(unit|api|fuzz|tools)'
fuzz 60
[ ! -x "$repository/build/kascade" ] || step "main job" main_job
if [ "$tier" != quick ]; then
    step "tsan build" build_preset tsan out/tsan -DKASCADE_TOOLS=OFF -DKASCADE_EXAMPLES=OFF &&
        tests "tsan tests" out/tsan -R '^(unit|api)'
    step "valgrind" valgrind_units
    step "Vulkan, synchronization validation" validated VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT \
        '^select/|d32_.*/(plain|ragged|page7|segments|tight)@'
    step "Vulkan, GPU-assisted validation" validated VK_VALIDATION_FEATURE_ENABLE_GPU_ASSISTED_EXT \
        '^select/.*d32.*/plain|d32_.*/plain@.*generic'
    oclgrind_rows
    other_processor
    # An hour of processor time: all targets run at once, so on two processors it takes half of one, and the whole of
    # --full stays within 75 minutes.
    fuzz 3600
fi
finish
