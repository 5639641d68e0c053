#!/usr/bin/env bash
# check_tree.sh ROOT - git tracks no generated file. Exit status 77 (skipped) where ROOT is no git checkout.
set -euo pipefail
cd "$1"
git -c safe.directory='*' rev-parse --git-dir >/dev/null 2>&1 || { echo "not a git checkout"; exit 77; }
tracked() {
    git -c safe.directory='*' ls-files "$@"
}
[ -n "$(tracked)" ] || { echo "git tracks no file at all" >&2; exit 1; }
generated=$(
    tracked --cached --ignored --exclude-standard
    tracked -- '*.o' '*.a' '*.so' '*.so.*' '*.spv' '*.ptx' '*.cubin' '*.fatbin' '*.pyc' '*.orig' '*.rej' \
        '*CMakeCache.txt' '*CMakeFiles/*' '*compile_commands.json' '*.ninja' '*.gcda' '*.gcno'
)
if [ -n "$generated" ]; then
    printf 'generated files are tracked by git:\n%s\n' "$generated" >&2
    exit 1
fi
echo "$(tracked | wc -l) tracked files, none of them generated"
