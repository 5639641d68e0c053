#!/usr/bin/env bash
# check_headers.sh ROOT - every public header compiles alone, as C11 and as C++17, without a warning.
set -euo pipefail
strict=(-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I "$1/include")
for header in "$1"/include/kascade/*.h; do
    name=kascade/$(basename "$header")
    printf '#include <%s>\nint main(void) { return 0; }\n' "$name" | gcc -std=c11 "${strict[@]}" -x c -
    printf '#include <%s>\nint main() { return 0; }\n' "$name" | g++ -std=c++17 "${strict[@]}" -x c++ -
    echo "$name: C11 and C++17"
done
