#!/usr/bin/env bash
# check_includes.sh ROOT - the library's C files include C11, processor and driver-interface headers alone; what the
# operating system offers beyond C11 is reached through core/platform.c.
set -euo pipefail
cd "$1"
c11='(assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdalign|stdarg|stdatomic'
c11+='|stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|tgmath|time|uchar|wchar|wctype)\.h'
processor='(immintrin|arm_neon|cpuid)\.h'
interface='((kascade|CL|vulkan)/[a-z0-9_]*|cJSON|cuda[a-z0-9_]*)\.h'
files=$(find core backends \( -name '*.c' -o -name '*.h' \) ! -path core/platform.c)
[ -n "$files" ] || { echo "no source file under core/ and backends/" >&2; exit 1; }
# shellcheck disable=SC2086
others=$(grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*<' $files |
    grep -vE "<($c11|$processor|$interface)>" || true)
if [ -n "$others" ]; then
    printf 'headers that only core/platform.c may include, or that no file may:\n%s\n' "$others" >&2
    exit 1
fi
echo "$(echo "$files" | wc -l) files include nothing beyond C11"
