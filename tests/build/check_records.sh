#!/usr/bin/env bash
# check_records.sh ROOT COMMAND - the table in docs/conformance/README.md is the one that COMMAND prints of the records
# beside it.
set -euo pipefail
cd "$1"
diff <("$2" conformance --table docs/conformance/*.json) <(grep '^|' docs/conformance/README.md | sed -n '/^| device |/,$p') >&2 ||
    { echo "docs/conformance/README.md: < is what the records give" >&2; exit 1; }
echo "$(ls docs/conformance/*.json | wc -l) records stand in the table"
