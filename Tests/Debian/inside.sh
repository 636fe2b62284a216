#!/bin/sh
# What run.sh does inside the fresh Debian, as root and with nothing of the host but the toolchain.
set -eu
cd /src

say() { echo "== $*"; }
fail() { echo "$*" >&2; exit 1; }

say "what the toolchain needs"
apt-get -qq update
apt-get -qq install -y --no-install-recommends make git g++ binutils libcurl4-openssl-dev libxml2-dev libsqlite3-dev \
  libncurses-dev tzdata >/dev/null 2>&1 || fail "the toolchain's packages cannot be installed"
directory=$(dirname "$(command -v swift)")
export LD_LIBRARY_PATH=/lent/used
mkdir -p "$LD_LIBRARY_PATH"
while :; do
  missing=$(for program in swift-build swift-frontend clang; do ldd "$directory/$program"; done |
    awk '/not found/ { print $1 }' | sort -u)
  [ -n "$missing" ] || break
  for library in $missing; do
    [ -e "/lent/$library" ] || fail "the toolchain needs $library"
    mv "/lent/$library" "$LD_LIBRARY_PATH/"
    echo "lent by the host: $library"
  done
done
swift --version 2>&1 | head -n 1

say "make deps"
make deps >/tmp/deps 2>&1 || { tail -n 20 /tmp/deps >&2; fail "make deps failed"; }
pkg-config --modversion fuse3 | sed 's/^/libfuse /'

say "make run"
make run >/tmp/run 2>&1 || { tail -n 40 /tmp/run >&2; fail "make run failed"; }
sed -n '/^The disk inside/,$p' /tmp/run

# Every line that make run says to try, as it is printed: the command ends where two spaces begin.
say "what make run says to try"
sed -n 's/^  \([^ ].*\)/\1/p' /tmp/run | sed -n '/^ls -ls/,$s/   *.*//p' >/tmp/hints
grep -q '^mount -o loop' /tmp/hints || [ ! -e /dev/loop-control ] || fail "root is not told of the loop device"
while read -r line; do
  case $line in *umount\ demo/disk)
    qemu-img convert -O raw demo/demo.qcow2 /tmp/right
    cmp demo/disk/demo.qcow2.raw /tmp/right || fail "the disk reads wrong" ;;
  esac
  echo "$ $line"
  sh -ec "$line" </dev/null >/tmp/out 2>&1 || { cat /tmp/out >&2; fail "failed: $line"; }
  case $line in
  *hello.txt*) grep -q 'inside a qcow2 image' /tmp/out || fail "debugfs does not find the file" ;;
  mount*) grep -q 'inside a qcow2 image' /mnt/hello.txt || fail "the loop mount does not show the file" ;;
  *list) grep -q demo/disk /tmp/out || fail "list does not show the mount" ;;
  esac
done </tmp/hints
if grep -q fuse.platter /proc/self/mountinfo; then fail "the mount is still there"; fi

say "make install, with a PATH like sudo's"
env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin make -s install
env PATH=/usr/bin:/bin /usr/local/bin/platter --version
mkdir -p /tmp/at
mount -t fuse.platter /src/demo/demo.qcow2 /tmp/at -o ro
cmp /tmp/at/demo.qcow2.raw /tmp/right || fail "the disk reads wrong through mount(8)"
umount /tmp/at
make -s uninstall
if [ -e /usr/local/bin/platter ]; then fail "make uninstall leaves the program"; fi
