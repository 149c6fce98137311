#!/usr/bin/env bash
# What of the CUDA back-end wants to be seen on a real card: all of it, in about ten minutes, from the files beside this one.
#
#   ./run.sh [--card N] [--out FOLDER] [--seconds N] [--small] [--no-torch]
#
# Each check has a time limit, and those that fail or run out of time stop nothing. What they print is in FOLDER, a file each;
# summary.txt and summary.json say how they ended. With INTERNEVO_TEST_CARD=emulator and --small everything but PyTorch runs on
# the emulated card. INTERNEVO_CUDA_LIBRARIES names folders of NVIDIA's libraries that are not found by themselves, and
# INTERNEVO_PYTHON the Python that has torch.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
card=0 out=$here/results seconds=600 small= torch=1
while (($#)); do
    case $1 in
    --card) card=$2 && shift ;;
    --out) out=$2 && shift ;;
    --seconds) seconds=$2 && shift ;;
    --small) small=1 ;;
    --no-torch) torch= ;;
    *) echo "$1 is not known: ./run.sh [--card N] [--out FOLDER] [--seconds N] [--small] [--no-torch]" >&2 && exit 2 ;;
    esac
    shift
done
mkdir -p "$out" && out=$(cd "$out" && pwd)
cd "$out" && rm -rf runs *.out *.err *.json
export PATH=$here/bin:$PATH INTERNEVO_TEST_CARD=${INTERNEVO_TEST_CARD:-$card} INTERNEVO_TEST_GOLDENS=$here/goldens
export INTERNEVO_CACHE=${INTERNEVO_CACHE:-$out/cache} RUST_BACKTRACE=0
device=cuda:$card
python=${INTERNEVO_PYTHON:-python3}
rows=() failed=0

# note NAME VERDICT SECONDS [WORDS]
note() {
    printf '%-28s %-10s %5d s  %s\n' "$1" "$2" "$3" "${4:-}" | tee -a "$out/summary.txt"
    rows+=("{\"check\":\"$1\",\"verdict\":\"$2\",\"seconds\":$3}")
}

# check NAME LIMIT COMMAND...: what it prints goes to NAME.out, and NAME.json if the name ends so; its errors to NAME.err.
check() {
    local name=$1 limit=$2 left=$((seconds - SECONDS)) began=$SECONDS verdict=ok code=0
    shift 2
    if ((left < 5)); then
        note "$name" "no time" 0 && return
    fi
    case $name in *.json) file=$out/$name ;; *) file=$out/$name.out ;; esac
    timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$file" 2>"$out/$name.err" </dev/null || code=$?
    case $code in
    0) ;;
    124 | 137) verdict="too slow" && failed=$((failed + 1)) ;;
    *) verdict=FAILED && failed=$((failed + 1)) ;;
    esac
    note "$name" "$verdict" $((SECONDS - began)) "$( ((code)) && tail -n 1 "$out/$name.err")"
}

# number FILE KEY: of an object on one line.
number() {
    sed -n "s/.*\"$2\": *\([-0-9.e+]*\).*/\1/p" "$out/$1" 2>/dev/null | head -n 1
}

: >summary.txt
if [[ $small ]]; then
    quick=--quick shapes=(15m) layers= steps=1 ops=(--preset 15m --seq-len 16 --quick) config=small.toml
    names=(in_f32 rows_) models=(llama_mha)
else
    quick= shapes=(7b 1.8b) layers= steps=5 ops=() config=start.toml names=() models=()
fi

# 1. The machine, and every operation beside what the card can do.
check doctor 90 internevo doctor --device "$device" $quick
check doctor.json 90 internevo doctor --device "$device" $quick --json
for shape in "${shapes[@]}"; do
    check "ops-$shape.json" 120 internevo bench ops --device "$device" --precision bf16 --json "${ops[@]:---preset=$shape}"
done

# 2. Numbers: operations against the CPU in f64 and PyTorch's goldens, the same bits from run to run, attention by cuDNN and
# by our own kernels.
check numbers-ops 150 ops --nocapture "${names[@]}"
check numbers-attention 90 attention --nocapture ${small:+rotated_both_ways}
check numbers-attention-ours 90 env INTERNEVO_TEST_ATTENTION=ours attention --nocapture ${small:+rotated_both_ways}

# 3. Steps: ours, then PyTorch's on the same card. Where 7B does not fit, with gradients in bf16; then with fewer layers, which
# have nearly the same MFU.
bench() {
    local name=$1 shape=$2 && shift 2
    local ours=(internevo bench step --device "$device" --precision bf16 --steps "$steps" --json)
    if [[ $small ]]; then ours+=("$here/small.toml"); else ours+=(--preset "$shape"); fi
    [[ $layers ]] && ours+=(--layers "$layers")
    check "$name.json" 120 "${ours[@]}" "$@"
}
for shape in "${shapes[@]}"; do
    bench "step-$shape" "$shape"
    if [[ ! $small && ! $(number "step-$shape.json" mfu) ]]; then
        bench "step-$shape-bf16-gradients" "$shape" --grads bf16
        if [[ ! $(number "step-$shape-bf16-gradients.json" mfu) ]]; then
            layers=8 && bench "step-$shape-8-layers" "$shape"
        fi
    fi
    bench "step-$shape-recompute" "$shape" --recompute
    if [[ $torch && ! $small ]]; then
        theirs=("$python" "$here/py/torch_step_cuda.py" --card "$card" --preset "$shape" ${layers:+--layers "$layers"})
        check "torch-$shape-eager.json" 90 "${theirs[@]}"
        check "torch-$shape-compile.json" 150 "${theirs[@]}" --compile
    fi
    [[ $small ]] || layers=
done

# 4. From the start of the process to the end of its first step, with kernels in the cache.
check start-cold 60 internevo train "$here/$config" --device "$device" --set name=cold
check start-warm 60 bash -c 'time -p internevo train "$@"' start "$here/$config" --device "$device" --set name=warm

# 5. Whole trainings: ten steps beside PyTorch in f64, and layouts of ranks that share the card.
check trainings-pytorch 150 pytorch "${models[@]}"
check trainings-layouts 150 layouts ${small:+--list}
check trainings-table 150 table ${small:+--list}

{
    echo
    # Without cuDNN both of these are of our own kernels.
    grep -m 1 '^on .*attention by' numbers-attention*.out
    for name in "$out"/step-*.json; do
        [[ -s $name ]] || continue
        base=$(basename "$name") shape=$(basename "$name" .json | cut -d- -f2)
        for key in tokens_per_s mfu peak_gflops; do printf '%-28s %-14s %s\n' "$base" "$key" "$(number "$base" $key)"; done
        for kind in eager compile; do
            theirs=$(number "torch-$shape-$kind.json" tokens_per_s)
            [[ $theirs ]] && awk -v a="$(number "$base" tokens_per_s)" -v b="$theirs" -v n="$base" -v k="$kind" \
                'BEGIN { if (b > 0) printf "%-28s over torch %s: %.2f\n", n, k, a / b }'
        done
    done
    sed -n 's/^real /start with a warm cache, s: /p' "$out/start-warm.err" 2>/dev/null
    echo "$failed of ${#rows[@]} checks failed, $SECONDS s"
} | tee -a "$out/summary.txt"
(
    IFS=,
    printf '{"failed":%d,"seconds":%d,"checks":[%s]}\n' "$failed" "$SECONDS" "${rows[*]}" >"$out/summary.json"
)
((failed == 0))
