#!/usr/bin/env bash
# All that needs a GPU, in a quarter of an hour: bench/gpu.sh OUT [STEP...]
# Each step has a time limit and goes on where it was cut off; what it has is in OUT as it comes. KD_DEVICE=cpu rehearses.
set -uo pipefail
out=$(realpath -m "$1")
shift
[ $# -gt 0 ] || set -- tests steps bank roofline cell together peers record
here=$(cd "$(dirname "$0")/.." && pwd)
work=${KD_WORK:-/tmp/kd-gpu} python=${PYTHON:-python3}
images=${KD_IMAGES:-$here/.gpu/tinyimagenet32-100.tar.xz}
mkdir -p "$out" "$work"
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR=$work/kernels
export CUBLAS_WORKSPACE_CONFIG=:4096:8
cd "$here" || exit
exec > >(tee -a "$out/gpu.log") 2>&1

# limited SECONDS NAME COMMAND...
limited() {
  local seconds=$1 name=$2 began=$SECONDS code=0
  shift 2
  timeout --kill-after=5 "$seconds" "$@" || code=$?
  echo "== $name: exit $code after $((SECONDS - began)) s (limit $seconds)"
}

tests() {
  limited 150 tests "$python" -m pytest -q --noconftest -p no:cacheprovider -n "${KD_TESTS:-6}" -m gpu tests/test_gpu.py \
    -k "${KD_TESTED:-not benchmark}"
}

measured() { # the parts of bench.gpu that are given
  local small=()
  [ "${KD_DEVICE:-}" = cpu ] && small=(--device cpu --networks wrn-10-1 --rounds 1)
  limited "$1" "${*:2}" "$python" -m bench.gpu --parts "${@:2}" --out "$out" "${small[@]}"
  tar cz -C "$work" kernels >"$out/kernels.tgz"
}

record() { # KD_SEEDS names those of this time, such as 1,2
  local folder=$work/record study=${KD_STUDY:-$here/workflow/studies/record-gpu.yaml}
  mkdir -p "$folder/data"
  sed "s/^seeds: .*/seeds: [${KD_SEEDS:-0}]/" "$study" >"$folder/config.yaml"
  [ -f "$images" ] && [ ! -d "$folder/data/tinyimagenet32-100" ] && tar xf "$images" -C "$folder/data"
  (cd "$folder" && limited "${KD_RECORD_SECONDS:-330}" record "$python" -m bench.verbs config.yaml --at-once 3)
  tar c -C "$folder" results | gzip -1 | split -b 15M - "$out/record.tgz."
}

parts=()
for step in "$@"; do
  case $step in tests | record) ;; *) parts+=("$step") ;; esac
done
for step in "$@"; do
  case $step in
    tests) tests ;;
    record) record ;;
    *) [ ${#parts[@]} -gt 0 ] && measured "${KD_BENCH_SECONDS:-240}" "${parts[@]}"; parts=() ;;
  esac
done
