#!/usr/bin/env bash
# On a machine with a GPU: the tests that need one, then every measurement of benchmarks/gpu, appended line by line.
# benchmarks/gpu.sh [--seconds N] [--only PART,..] [--out FILE] [--commit ID] [--no-tests] [--dry-run]
# vitkiln need not be installed. PYTHON names the interpreter, WHEELS a folder of wheels that it lacks (pydantic, say).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
seconds=570 tests=yes options=()
while (($#)); do
  case $1 in
    --seconds) seconds=${2:?--seconds needs a number} && shift ;;
    --seconds=*) seconds=${1#*=} ;;
    --no-tests) tests= ;;
    --dry-run) tests= && options+=("$1") ;;
    *) options+=("$1") ;;
  esac
  shift
done
seconds=${seconds%.*}
wheels=${WHEELS:+$(cd "$WHEELS" && pwd)}
cd "$root"

links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
mkdir "$links/vitkiln"
for room in engine kernels recipes; do ln -s "$root/$room" "$links/vitkiln/$room"; done
export PYTHONPATH="$links${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "$wheels" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --target "$links" "$wheels"/*.whl
fi

measure=("$python" -m benchmarks.gpu ${options[@]+"${options[@]}"})
if [ -n "$tests" ]; then
  "${measure[@]}" --help > /dev/null # a mistake in the options is said before the tests take their time
  timeout $((seconds / 3)) "$python" -m pytest -q -m gpu --continue-on-collection-errors tests ||
    echo "the tests on the GPU ended with status $?; the measurements below compare results too" >&2
fi
left=$((seconds > SECONDS ? seconds - SECONDS : 1))
timeout --signal INT --kill-after 10 $((left + 20)) "${measure[@]}" --seconds "$left"
