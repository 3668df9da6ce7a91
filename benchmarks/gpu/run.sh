#!/usr/bin/env bash
# Builds, tests and measures on a GPU, and prints the tables: see README.md beside this file, or --help.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
    cat <<'TEXT'
benchmarks/gpu/run.sh [OPTIONS]

  --prefix DIR        holds an installed llama_dflash/ (default: build one with CUDA in build/gpu, which takes long)
  --out DIR           results.json, tables.md, log.txt and more (default: build/gpu/out)
  --steps LIST        of tests,ops,sanitizer,models,round,chain,chain-long,pairs,profile
                      (default: all but chain-long; they are run in the order tests,ops,round,chain,pairs,profile,sanitizer)
  --llama-server PATH an unpatched llama-server with CUDA, for chain and chain-long
  --ops PATH          the program test-tree-ops (default: PREFIX/bin/test-tree-ops)
  --models DIR        where the models are or are to be written, 23 GB (default: build/gpu/models)
  --preset NAME       shape of the models: 27b, 9b, tiny (default: 27b)
  --contexts LIST     tokens in memory, one measurement each (default: 512,32768,131072)
  --threads N         default: 8
  --n-gpu-layers N    0 tries everything out on a CPU (default: -1, all)
  --seconds N         stop after about so long, tables included: what is not done by then is left out (default: 3600)
  --python PATH       default: python3
TEXT
}

prefix= out=$root/build/gpu/out models=$root/build/gpu/models
steps=tests,ops,sanitizer,models,round,chain,pairs,profile
server= ops= preset=27b contexts=512,32768,131072 threads=8 layers=-1 seconds=3600 python=python3
while [ $# -gt 0 ]; do
    case $1 in
        --prefix|--out|--steps|--models|--preset|--contexts|--threads|--seconds|--python|--ops) printf -v "${1#--}" %s "$2" ;;
        --llama-server) server=$2 ;;
        --n-gpu-layers) layers=$2 ;;
        -h|--help) usage; exit ;;
        *) echo "run.sh: $1 is no option" >&2; usage >&2; exit 2 ;;
    esac
    shift 2
done
deadline=$((SECONDS + seconds - 5))
mkdir -p "$out" "$models"
out=$(cd "$out" && pwd) models=$(cd "$models" && pwd)
log=$out/log.txt results=$out/results.json work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$log"

# ---------------------------------------------------------------- steps

wanted() { [[ ,$steps, == *,$1,* ]]; }

# finished NAME STATUS STARTED LOG: says how a step ended, and keeps that and what it printed.
finished() {
    local seconds
    seconds=$(awk "BEGIN { print $EPOCHREALTIME - $3 }")
    { printf '\n==== %s\n' "$1"; cat "$4"; } >>"$log"
    "$python" "$here/results.py" "$results" "$1" "$seconds" "$2"
    printf '%s: exit status %s after %.0f s\n' "$1" "$2" "$seconds"
    [ "$2" = 0 ] || tail -n 12 "$4" | cut -c1-200
}

# step NAME SECONDS COMMAND…: runs it with a limit, less where less is left of --seconds. Never fails.
step() {
    local name=$1 limit=$2 status=0 started=$EPOCHREALTIME left=$((deadline - SECONDS))
    shift 2
    if [ "$left" -lt 5 ]; then
        echo "$name: left out, no time is left"
        : >"$work/step.log"
        return
    fi
    timeout --kill-after=10 $((limit < left ? limit : left)) "$@" >"$work/step.log" 2>&1 </dev/null || status=$?
    finished "$name" "$status" "$started" "$work/step.log"
}

# The models are written while the tests run.
models_process=
start_models() {
    models_started=$EPOCHREALTIME
    timeout 300 "$python" "$here/models.py" --preset "$preset" --out "$models" >"$work/models.log" 2>&1 &
    models_process=$!
}
finish_models() {
    local status=0
    [ -n "$models_process" ] || return 0
    wait "$models_process" || status=$?
    models_process=
    finished models "$status" "$models_started" "$work/models.log"
}

build() {
    local b=$root/build/gpu/cmake
    cmake -S "$root" -B "$b" -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES:-native}" &&
        cmake --build "$b" --parallel && cmake --build "$b" --parallel --target test-tree-ops &&
        cmake --install "$b" --prefix "$prefix" && mkdir -p "$prefix/bin" &&
        cp "$(find "$b" -name test-tree-ops -type f | head -1)" "$prefix/bin/"
}
if [ -z "$prefix" ]; then
    prefix=$root/build/gpu/prefix
    build 2>&1 | tee -a "$log" | grep -E '^\[|[Ee]rror' || true
fi
if [ ! -d "$prefix/llama_dflash/lib" ]; then
    echo "run.sh: no llama_dflash/lib in $prefix: give --prefix the folder that a build was installed into" >&2
    exit 1
fi
prefix=$(cd "$prefix" && pwd)
if [ -f "$prefix/llama_dflash/__init__.py" ]; then
    export PYTHONPATH=$prefix${PYTHONPATH:+:$PYTHONPATH}
else # libraries alone: with the Python code of this checkout
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} LLAMA_CPP_LIB_PATH=$prefix/llama_dflash/lib
fi
export PYTHONUNBUFFERED=1
if [ "$layers" != 0 ] && ! "$python" -c 'import llama_dflash, llama_cpp; assert llama_cpp.llama_supports_gpu_offload()'; then
    echo "run.sh: the libraries in $prefix do not load, have no GPU backend, or find no GPU; --n-gpu-layers 0 does without" >&2
    exit 1
fi
ops=${ops:-$prefix/bin/test-tree-ops}
pair=(--target "$models/target.gguf" --drafter "$models/drafter.gguf")
device=(--threads "$threads" --n-gpu-layers "$layers")

tests() { # each folder by itself: their conftest.py have the same name
    local parallel=() folder files
    ! "$python" -c 'import xdist' 2>/dev/null || parallel=(-n 4)
    for folder in tree python; do
        mapfile -t files < <(grep -l 'mark\.gpu' "$root/tests/$folder"/test_*.py) # others may need more to be imported
        step "tests/$folder" 180 "$python" -m pytest -m gpu -q -p no:cacheprovider ${parallel[@]+"${parallel[@]}"} \
            --durations 5 --rootdir "$root" -c "$root/pyproject.toml" "${files[@]}"
        grep -E '^(FAILED|ERROR|SKIPPED)|passed|failed|skipped' "$work/step.log" | tail -n 25 | cut -c1-200 || true
    done
}

on_device() { # what test-tree-ops is told
    [ "$layers" = 0 ] || echo --backend CUDA0
}

bandwidth() { # of the GPU's memory, in GB/s, as its maker says: for the ops' floor
    case $(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1) in
        *H200*) echo 4800 ;; *H100*) echo 3350 ;; *A100*) echo 2039 ;; *4090*) echo 1008 ;; *3090*) echo 936 ;;
    esac
}

with_libraries=(env "LD_LIBRARY_PATH=$prefix/llama_dflash/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")

# shellcheck disable=SC2046  # on_device and bandwidth are several words, or none
run_ops() {
    step "ops: checks" 120 "${with_libraries[@]}" "$ops" all $(on_device)
    tail -n 20 "$work/step.log" | cut -c1-160
    step "ops: time" 60 "${with_libraries[@]}" "$ops" time $(on_device) $(bandwidth)
    cp "$work/step.log" "$out/ops-time.txt"
}

# On a CPU the same programs run without it.
sanitizer() {
    local tool
    if [ -x "$ops" ]; then
        for tool in memcheck racecheck; do
            # shellcheck disable=SC2046
            sanitized "$tool: ops" 100 --tool $tool -- "${with_libraries[@]}" "$ops" all $(on_device) --quick
        done
    fi
    "$python" "$here/models.py" --preset tiny --out "$work/tiny" >>"$log" 2>&1
    sanitized "memcheck: rounds" 100 --tool memcheck -- "$python" "$here/round.py" --target "$work/tiny/target.gguf" \
        --drafter "$work/tiny/drafter.gguf" --context 96 --sizes 1,23 --turns 1 --rounds 3 --budgets 22 --lengths 4 \
        "${device[@]}" --out "$work/sanitized.json"
}

# sanitized NAME SECONDS OPTION… -- COMMAND…
sanitized() {
    local name=$1 limit=$2 options=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    [ "$layers" = 0 ] || set -- compute-sanitizer --target-processes all --error-exitcode 9 --print-limit 20 "${options[@]}" "$@"
    step "$name" "$limit" "$@"
    grep -h '========= ERROR SUMMARY\|RACECHECK SUMMARY' "$work/step.log" || true
}

round() {
    local n kv more
    for n in ${contexts//,/ }; do
        kv=q4_0 more=(--budgets 22 --lengths 8.31,7.67 --sizes 1,8,16,23,32 --turns 2)
        [ "$n" -ge 8192 ] || kv=f16 more=()
        if [ "$n" -ge 131072 ]; then more+=(--full-window); else more+=(--prefill-without); fi
        step "round at $n" 200 "$python" "$here/round.py" "${pair[@]}" "${device[@]}" --context "$n" --kv $kv "${more[@]}" \
            --verbose --out "$results"
    done
}

chain() { # CTX KV PROMPT N_MAX
    step "chain $4, window $1" 150 "$python" "$here/chain.py" --llama-server "$server" "${pair[@]}" "${device[@]}" \
        --ctx "$1" --kv "$2" --prompt "$3" --n-max "$4" --out "$results"
}

pairs() {
    local folder=$root/models
    step pairs 120 "$python" "$root/benchmarks/bench.py" --target "$folder/tiny-qwen35.gguf" \
        --draft-model "$folder/tiny-qwen35-dflash.gguf" --prompts "$here/prompts.jsonl" --max-tokens 128 \
        --chain-budgets 7,15 --tree-budgets 8,15,22,auto --server-lengths 7,15 ${server:+--llama-server "$server"} \
        "${device[@]}" --minutes 1 --out "$out/pairs.json" --markdown "$out/pairs.md"
}

profile() {
    local kind ncu
    for kind in plain batch verify; do
        ncu=(env GGML_CUDA_DISABLE_GRAPHS=1 ncu --profile-from-start off --clock-control none --cache-control none
            --metrics "$("$python" "$here/kernels.py" metrics)"
            --csv --page raw --print-units base --log-file "$work/$kind.csv")
        [ "$layers" != 0 ] || ncu=(env)
        step "profile: $kind" 60 "${ncu[@]}" "$python" "$here/kernels.py" run --target "$models/slice.gguf" --kind $kind \
            "${device[@]}"
        [ "$layers" = 0 ] || step "profile: $kind, sums" 10 "$python" "$here/kernels.py" sum --csv "$work/$kind.csv" \
            --kind $kind --out "$results"
    done
}

# ---------------------------------------------------------------- main

missing_server() { echo "$1: left out, it needs --llama-server"; }

! wanted models || start_models
! wanted tests || tests
if wanted ops; then
    if [ -x "$ops" ]; then run_ops; else echo "ops: left out, no program $ops (--ops)"; fi
fi
finish_models
! wanted round || round
if wanted chain; then
    if [ -n "$server" ]; then
        chain 4096 f16 512 0
        chain 4096 f16 512 15
        chain 131072 q4_0 512 15
    else missing_server chain; fi
fi
if wanted chain-long; then
    if [ -n "$server" ]; then
        chain 36864 q4_0 32768 0
        chain 36864 q4_0 32768 15
    else missing_server chain-long; fi
fi
! wanted pairs || pairs
! wanted profile || profile
! wanted sanitizer || sanitizer

echo
"$python" "$here/tables.py" "$results" | tee "$out/tables.md"
! wanted pairs || [ ! -f "$out/pairs.md" ] || { echo; cat "$out/pairs.md"; }
