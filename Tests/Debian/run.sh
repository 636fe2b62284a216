#!/bin/sh
# run.sh [SUITE]: makes a fresh Debian (trixie, bookworm, …) or Ubuntu (noble, …) in a directory, and there builds
# platter, does what `make run` says, and installs. For root, with debootstrap, a mirror and a Swift toolchain that runs
# there. It says that it was skipped where one of these is missing. Nothing stays behind.
#
#   MIRROR=URL   the mirror; otherwise the host's own, and debootstrap's where the host is of the other family
set -eu

skip() { echo "skipped: $*"; exit 0; }
fail() { echo "$*" >&2; exit 1; }

case ${1-} in
-h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
-*) echo "usage: $0 [SUITE]" >&2; exit 2 ;;
esac
[ $# -le 1 ] || { echo "usage: $0 [SUITE]" >&2; exit 2; }
suite=${1:-trixie}
case $suite in '' | *[!a-z0-9-]*) fail "$suite: not the name of a Debian, such as trixie" ;; esac
tree=$(cd "$(dirname "$0")/../.." && pwd)

# --- What it needs --------------------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || skip "only root can make a root directory of its own"
for tool in debootstrap swift git unshare mount chroot; do
  command -v "$tool" >/dev/null || skip "$tool is missing"
done
[ -c /dev/fuse ] || skip "there is no /dev/fuse"

# Everything that is mounted here is gone with this namespace, whatever happens.
if [ "${PLATTER_DEBIAN_NAMESPACE-}" != yes ]; then
  unshare --mount true 2>/dev/null || skip "this system makes no mount namespaces"
  PLATTER_DEBIAN_NAMESPACE=yes exec unshare --mount --propagation private "$0" "$suite"
fi

toolchain=$(swift -print-target-info | sed -n 's|.*"runtimeResourcePath": "\(.*\)/usr/lib/swift".*|\1|p')
[ -n "$toolchain" ] || skip "the Swift toolchain has no directory of its own to be bound into the root"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/platter-debian.XXXXXX")
root=$work/root
trap 'rm -rf "$work"' EXIT
# Fetches a mirror's Release file of the suite, the way apt reaches it, and says whose it is.
origin_at() {
  /usr/lib/apt/apt-helper download-file "${1%/}/dists/$suite/Release" "$work/Release" >/dev/null 2>&1 &&
    sed -n 's/^Origin: //p' "$work/Release"
}

# debootstrap has a script for each suite; those of a family are one, and a newer suite's may be missing.
scripts=/usr/share/debootstrap/scripts
mirror=${MIRROR-}
if [ -n "$mirror" ]; then
  origin=$(origin_at "$mirror") || skip "the mirror does not answer for $suite"
elif [ ! -e "$scripts/$suite" ]; then
  fail "debootstrap knows no $suite; MIRROR=URL says where it is"
else
  case $(readlink -f "$scripts/$suite") in */gutsy) origin=Ubuntu ;; *) origin=Debian ;; esac
  fields='$(ORIGIN) $(COMPONENT) $(SUITE) $(REPO_URI)'
  mirror=$(apt-get indextargets --format "$fields" 'Created-By: Packages' 2>/dev/null |
    awk -v origin="$origin" '$1 == origin && $2 == "main" && $3 !~ /-/ { print $4; exit }')
  [ -z "$mirror" ] || origin_at "$mirror" >/dev/null || skip "the mirror does not answer for $suite"
fi
case $origin in
Debian) script=sid components=main ;;
Ubuntu) script=gutsy components=main,universe ;;
*) fail "the mirror is one of '$origin', neither Debian nor Ubuntu" ;;
esac
[ ! -e "$scripts/$suite" ] || script=$suite

# --- The root -------------------------------------------------------------------------------------------------------

finish() {
  trap - EXIT INT TERM
  if [ -x "$root/src/.build/release/platter" ]; then
    chroot "$root" /src/.build/release/platter umount --lazy /src/demo/disk >/dev/null 2>&1 || :
  fi
  # The binds first, the deepest first: what is removed afterwards is this directory and nothing behind it.
  awk -v below="$root/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
    while read -r place; do umount -l "$place"; done
  if grep -qF " $root/" /proc/self/mountinfo; then fail "something is still mounted below $root, which stays"; fi
  rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

# Shows a path of the host, read-only, under its own name.
show() {
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root$(dirname "$1")"; : >"$root$1"; fi
  mount --bind "$1" "$root$1"
  mount -o remount,bind,ro "$root$1"
}

echo "making $origin $suite in $root"
debootstrap --variant=minbase --components="$components" --include=ca-certificates \
  "$suite" "$root" ${mirror:+"$mirror" "$scripts/$script"} >"$work/log" 2>&1 || {
  tail -n 5 "$work/log" >&2
  fail "debootstrap could not make $suite"
}
# How the host reaches its mirror (proxies, times) holds for the root too.
apt-config dump 2>/dev/null | grep -E '^Acquire::(https?|ftp|Check-|Retries|ForceIPv)' \
  >"$root/etc/apt/apt.conf.d/90host" || :
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"

# --- The tree, the toolchain, and what git knows about where packages come from -------------------------------------

show "$toolchain"
# Libraries of the host that the toolchain was made for: inside.sh takes those that the suite has no longer.
mkdir "$root/lent"
for program in swift-build swift-frontend clang; do ldd "$toolchain/usr/bin/$program" 2>/dev/null || :; done |
  awk -v own="$toolchain/" '$3 ~ "^/" && index($3, own) != 1 { print $3 }' | sort -u |
  while read -r library; do cp -L "$library" "$root/lent/"; done
home=${HOME:-/root}
mkdir -p "$root$home"
for scope in --system --global; do
  git config "$scope" --list --show-origin 2>/dev/null | sed -n 's/^file:\([^	]*\)	.*/\1/p'
done | sort -u | while read -r file; do show "$file"; done
git config --get-regexp '^url\..*\.insteadof$' 2>/dev/null |
  sed -n 's|^url\.\(file://\)\{0,1\}\(/[^ ]*\)\.insteadof .*|\2|p' |
  sort -u | while read -r directory; do if [ -d "$directory" ]; then show "${directory%/}"; fi; done
git clone -q --no-hardlinks -- "$tree" "$root/src"
git -C "$tree" diff --quiet HEAD 2>/dev/null || echo "what is not committed is not part of this"

env -i PATH="$toolchain/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$home" \
  LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" /src/Tests/Debian/inside.sh ||
  fail "platter does not build and run on a fresh $origin $suite"
echo "platter builds, runs and installs on a fresh $origin $suite"
