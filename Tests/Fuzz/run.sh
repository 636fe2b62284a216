#!/bin/sh
# run.sh SECONDS [TARGET...] - fuzz every parser, and whole images, for so many seconds each, with libFuzzer.
#
# The corpus starts from the shared images (PLATTER_SHARED/images, or ../shared/images beside the package) in their
# packed form and is kept in .build-fuzz/corpus. A find is left in .build-fuzz/finds and makes the status 1. FUZZ_SEED makes
# libFuzzer choose the same inputs each time: what everybody runs must not fail by chance.
set -eu
seconds=${1:?usage: run.sh SECONDS [TARGET...]}
shift
[ $# -gt 0 ] || set -- detect vhd vhdcheck vhdwrite vhdx vhdxlog vhdxcheck vhdxwrite \
    qcow2 qcow2check qcow2write qcow1 image
cd "$(dirname "$0")/../.."
work=$PWD/.build-fuzz
images=${PLATTER_SHARED:-$PWD/../shared}/images
mkdir -p "$work/corpus" "$work/finds" "$work/logs"

export PLATTER_FUZZ=1 SWIFT_BACKTRACE=enable=no
build="swift build --scratch-path $work/build -c release -Xswiftc -sanitize=fuzzer"
$build --product PlatterFuzz >"$work/logs/build" 2>&1 || { cat "$work/logs/build" >&2; exit 2; }
bin=$($build --show-bin-path)
printf '' >"$work/empty.swift"
swiftc -sanitize=fuzzer -parse-as-library "$work/empty.swift" -o "$work/fuzz" \
    -Xlinker --whole-archive "$bin/libPlatterFuzz.a" -Xlinker --no-whole-archive \
    -lzstd -ldeflate -lz -lcrypto -lfuse3 >"$work/logs/link" 2>&1 || { cat "$work/logs/link" >&2; exit 2; }

# Seeds: images and heads of images, packed once.
if [ ! -d "$work/seeds" ] && [ -d "$images" ]; then
    unpacked=$(mktemp -d "${TMPDIR:-/var/tmp}/platter-seeds.XXXXXX")
    trap 'rm -rf "$unpacked"' EXIT INT TERM
    for file in "$images"/*.xz; do
        name=$(basename "$file" .xz)
        case $name in
            *.bin) ;;
            *.tar) mkdir -p "$unpacked/$name" && tar -xJf "$file" -C "$unpacked/$name" ;;
            # A reader cuts the stream off on purpose: xz is not to complain.
            *) xz -dc "$file" 2>/dev/null | head -c 25000000 >"$unpacked/$name" || true ;;
        esac
    done
    mkdir -p "$work/seeds.part"
    for name in vhdx vhd qcow2 qcow; do
        mkdir -p "$work/seeds.part/$name"
        find "$unpacked" -type f -name "*.$name" | sort | while read -r file; do
            PLATTER_FUZZ_TARGET=pack PLATTER_FUZZ_OUT=$work/seeds.part/$name "$work/fuzz" "$file" >/dev/null 2>&1
        done
    done
    find "$unpacked" -type f ! -name '*.vhdx' ! -name '*.vhd' ! -name '*.qcow*' ! -name '*.json' -size -2000k |
        sort | while read -r file; do
            case $file in *vhd*) kind=vhd ;; *) kind=qcow2 ;; esac
            PLATTER_FUZZ_TARGET=pack PLATTER_FUZZ_OUT=$work/seeds.part/$kind "$work/fuzz" "$file" >/dev/null 2>&1
        done
    mv "$work/seeds.part" "$work/seeds"
fi

failed=0
for target in "$@"; do
    case $target in
        vhdxlog | vhdxcheck | vhdxwrite) seeds=vhdx ;;
        vhdcheck | vhdwrite) seeds=vhd ;;
        qcow2check | qcow2write) seeds=qcow2 ;;
        qcow1) seeds=qcow ;;
        detect | image) seeds= ;;
        *) seeds=$target ;;
    esac
    mkdir -p "$work/corpus/$target"
    status=0
    # shellcheck disable=SC2046  # the seeds' directories hold no spaces of ours
    PLATTER_FUZZ_TARGET=$target "$work/fuzz" "$work/corpus/$target" \
        $(find "$work/seeds/$seeds" -type d 2>/dev/null) \
        -max_total_time="$seconds" -seed="${FUZZ_SEED:-0}" -max_len=131072 -timeout=10 -rss_limit_mb=512 -print_final_stats=1 \
        -artifact_prefix="$work/finds/$target-" >"$work/logs/$target" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/logs/$target")
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$work/logs/$target")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/logs/$target" | tail -1)
    echo "fuzz $target: ${runs:-0} runs, coverage ${covered:-0}, ${peak:-?} MiB, status $status"
    if [ $status -ne 0 ]; then
        failed=1
        tail -40 "$work/logs/$target" >&2
    fi
done
exit $failed
