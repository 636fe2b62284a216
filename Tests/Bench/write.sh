#!/usr/bin/env bash
# write.sh - measure writing into empty images, beside qemu-storage-daemon, in one interleaved run.
#
#   write.sh [-r ROUNDS] [-w WORKDIR] [-o OUT.tsv] [-f "vhdx vhdx1m vpc qcow2"] [-W "seqalloc randalloc overwrite sync4k"] PLATTER
#
# Workloads, each on the file that the server shows:
#   seqalloc   dd of 1 GiB in 1 MiB requests into a fresh image of 4 GiB, with a final fsync     MiB/s
#   randalloc  fio, 64 KiB at random places of a fresh image of 4 GiB, 512 MiB in all, fsync at the end   MiB/s
#   overwrite  dd of 1 GiB over what seqalloc wrote, with a final fsync                           MiB/s
#   sync4k     fio, 4 KiB at random places of what is allocated, fsync after each, 2 seconds     IOPS
# Every round visits both servers in turn, and the first of a round rotates: only the ratios mean anything.
# -c counts the fdatasync and fsync calls of each server for one seqalloc of 1 GiB instead (needs strace).
# Needs: root, fio, qemu-storage-daemon, qemu-img, fuse3.
set -u
ROUNDS=5 WORK=/var/tmp/platter-bench.$$ OUT= FORMATS="vhdx vhdx1m vpc qcow2" LOADS="seqalloc randalloc overwrite sync4k" COUNT=
while getopts r:w:o:f:W:c option; do
    case $option in
    r) ROUNDS=$OPTARG ;; w) WORK=$OPTARG ;; o) OUT=$OPTARG ;; f) FORMATS=$OPTARG ;; W) LOADS=$OPTARG ;; c) COUNT=1 ;;
    *) sed -n '2,17p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 1 ] || { sed -n '2,17p' "$0" >&2; exit 2; }
PLATTER=$(realpath "$1")
mkdir -p "$WORK/mnt"
OUT=${OUT:-$WORK/out.tsv}
: >"$OUT"
PID=
cleanup() { stop 2>/dev/null; rm -rf "$WORK/mnt" "$WORK"/image.* "$WORK/src" "$WORK/qsd.file"; rmdir "$WORK" 2>/dev/null; }
trap cleanup EXIT
trap 'exit 130' INT TERM
head -c $((256 << 20)) /dev/urandom >"$WORK/src"

image() { # image FORMAT: a fresh one of 4 GiB, made by the same program for both servers
    IMAGE=$WORK/image.$1
    rm -f "$IMAGE"
    case $1 in
    vhdx) qemu-img create -q -f vhdx "$IMAGE" 4G; DRIVER=vhdx ;;
    vhdx1m) qemu-img create -q -f vhdx -o block_size=1M "$IMAGE" 4G; DRIVER=vhdx ;;
    vpc) qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$IMAGE" 4G; DRIVER=vpc ;;
    qcow2) qemu-img create -q -f qcow2 "$IMAGE" 4G; DRIVER=qcow2 ;;
    esac
}

answers() { for _ in $(seq 500); do grep -qF " $1 " /proc/self/mounts && [ -s "$2" ] && return 0; sleep 0.01; done; return 1; }

start() { # start SERVER [PREFIX...]: serves IMAGE, sets TARGET and PID
    local server=$1; shift
    if [ "$server" = qsd ]; then
        TARGET=$WORK/qsd.file; : >"$TARGET"
        "$@" qemu-storage-daemon --blockdev driver=file,node-name=f,filename="$IMAGE" \
            --blockdev driver=$DRIVER,node-name=q,file=f \
            --export type=fuse,id=e,node-name=q,mountpoint="$TARGET",writable=on,growable=off >/dev/null 2>&1 &
        PID=$!; MOUNT=$TARGET
    else
        MOUNT=$WORK/mnt; TARGET=$MOUNT/disk.raw
        "$@" "$PLATTER" -f -w -o name=disk.raw "$IMAGE" "$MOUNT" >/dev/null 2>&1 &
        PID=$!
    fi
    answers "$MOUNT" "$TARGET" || { echo "$server does not serve $IMAGE" >&2; return 1; }
}

stop() {
    [ -n "$PID" ] || return 0
    umount "$MOUNT" 2>/dev/null || { sleep 0.2; umount "$MOUNT" 2>/dev/null; }
    # qemu-storage-daemon stays after its mount is gone; with strace in front the server is its child.
    local child; child=$(pgrep -P "$PID" | head -1)
    [ "$SERVER" = qsd ] && kill "${child:-$PID}" 2>/dev/null
    wait "$PID" 2>/dev/null
    PID=
}

seconds() { # seconds COMMAND...: how long it takes
    local begin end; begin=$(date +%s%N); "$@" >/dev/null 2>&1 || return 1; end=$(date +%s%N)
    awk -v n=$((end - begin)) 'BEGIN { printf "%.4f", n / 1e9 }'
}
rate() { awk -v mib="$1" -v s="$2" 'BEGIN { printf "%.1f", mib / s }'; }
sequential() { local i; for i in 0 1 2 3; do dd if="$WORK/src" of="$TARGET" bs=1M seek=$((i * 256)) conv=notrunc$([ $i = 3 ] && echo ,fsync) status=none || return 1; done; }
measure() { # measure WORKLOAD: prints a number
    case $1 in
    seqalloc | overwrite) rate 1024 "$(seconds sequential)" ;;
    randalloc) rate 512 "$(seconds fio --name=r --filename="$TARGET" --rw=randwrite --bs=64k --size=4G --io_size=512M \
        --ioengine=psync --randseed="$SEED" --end_fsync=1 --allow_file_create=0 --fallocate=none)" ;;
    sync4k) fio --name=s --filename="$TARGET" --rw=randwrite --bs=4k --size=1G --ioengine=psync --fsync=1 --runtime=2 \
        --time_based --allow_file_create=0 --fallocate=none --output-format=terse --terse-version=3 2>/dev/null |
        awk -F';' '{ print $49 }' ;;
    esac
}

if [ -n "$COUNT" ]; then
    for format in $FORMATS; do
        for SERVER in qsd platter; do
            image "$format"
            start $SERVER strace -f -c -e trace=fdatasync,fsync -o "$WORK/calls" || continue
            sequential; stop
            printf '%s\t%s\t%s\n' "$format" $SERVER "$(awk '/fdatasync|fsync/ { n += $4 } END { print n + 0 }' "$WORK/calls")"
            rm -f "$WORK/calls"
        done
    done
    exit
fi
for round in $(seq "$ROUNDS"); do
    SEED=$round
    order="qsd platter"; [ $((round % 2)) = 0 ] && order="platter qsd"
    for format in $FORMATS; do
        for SERVER in $order; do
            for load in $LOADS; do
                # The later two run on what the first left.
                case $load in seqalloc | randalloc) stop; image "$format"; start $SERVER || break ;; esac
                [ "$load" = overwrite ] && [ "${previous:-}" != seqalloc ] && { stop; image "$format"; start $SERVER || break; sequential; }
                [ "$load" = sync4k ] && { stop; image "$format"; start $SERVER || break; sequential; }
                previous=$load
                printf '%s\t%s\t%s\t%s\n' "$format" "$load" $SERVER "$(measure $load)" | tee -a "$OUT" >&2
            done
            stop
        done
    done
done
echo "| image | workload | qemu-storage-daemon | platter | ratio |"
echo "|---|---|---|---|---|"
awk -F'\t' '
    { key = $1 "\t" $2; if (!(key in seen)) { seen[key] = ++keys; names[keys] = key } values[key, $3] = values[key, $3] " " $4 }
    function median(list, a, n, i, j, t) {
        n = split(list, a, " ")
        for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j - 1] + 0 > a[j] + 0; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
        return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
    }
    END {
        for (k = 1; k <= keys; k++) {
            split(names[k], p, "\t"); q = median(values[names[k], "qsd"]); m = median(values[names[k], "platter"])
            printf "| %s | %s | %.0f | %.0f | %.2f |\n", p[1], p[2], q, m, (q > 0 ? m / q : 0)
        }
    }' "$OUT"
