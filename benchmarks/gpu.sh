#!/usr/bin/env bash
# On a machine with a GPU: the tests that need one, then every measurement of benchmarks/gpu, appended line by line.
# benchmarks/gpu.sh [--seconds N] [--only PART,..] [--out FILE] [--commit ID] [--dry-run]
# vitkiln need not be installed. PYTHON names the interpreter, WHEELS a folder of wheels that it lacks (pydantic, say).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
python=${PYTHON:-python3}
seconds=570
options=("$@")
dry=
for ((i = 0; i < ${#options[@]}; i++)); do
  case ${options[i]} in
    --seconds) seconds=${options[i + 1]%.*} ;;
    --dry-run) dry=1 ;;
  esac
done

links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
mkdir "$links/vitkiln"
for room in engine kernels recipes; do ln -s "$root/$room" "$links/vitkiln/$room"; done
export PYTHONPATH="$links${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --target "$links" "$WHEELS"/*.whl
fi

if [ -z "$dry" ]; then
  timeout $((seconds / 3)) "$python" -m pytest -q -m gpu --continue-on-collection-errors tests ||
    echo "the tests on the GPU did not all pass (status $?): their operators' lines below say where they differ" >&2
fi
left=$((seconds > SECONDS ? seconds - SECONDS : 1))
status=0
timeout --signal INT --kill-after 10 $((left + 20)) "$python" -m benchmarks.gpu "$@" --seconds "$left" || status=$?
exit "$status"
