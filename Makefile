# platter: the commands that people type.
#
#   make run                      build, make a demo image, mount it, say what to try next
#   make run IMAGE=… AT=…         build and mount your image (or directory of images)
#   make test                     every check and every test
#   make debian SUITE=trixie      as root: build and run in a fresh Debian of that name
#   make install                  as root: install what `make build` has built
#   make build deps lint fuzz torture tsan bench man uninstall clean
#
# `run` and `test` install what is missing (Debian, Ubuntu); `make deps` does only that.

PREFIX  ?= /usr/local
SBINDIR ?= /sbin
DESTDIR ?=
FUSE_CONF = /etc/fuse.conf
IMAGE   ?=
AT      ?=
# Seconds for each fuzz target.
SECONDS ?= 60
# How many states after a loss of power `make torture` looks at for each format, and how often it kills a mount.
STATES  ?= 200000
KILLS   ?= 100
ROUNDS  ?= 3
# The size of the disks that `make bench` makes.
BENCH_MIB ?= 1024
# What it measures: the names of peers.sh. The second list is measured on a mount that writes.
BENCH_READS  ?= seqcold,seqhot,seqdirect,rr1,rr16,rr4j,loopseq,looprr1,looprr16
BENCH_WRITES ?= seqw,seqwsync,rw1,rw16,alloc,loopw
# The Debian that `make debian` makes.
SUITE   ?= trixie
SHARED  ?= $(or $(PLATTER_SHARED),$(CURDIR)/../shared)

SWIFT_FLAGS = --explicit-target-dependency-import-check error
RELEASE = -c release --static-swift-stdlib $(SWIFT_FLAGS)
PLATTER = .build/release/platter

BUILD_PACKAGES = libfuse3-dev fuse3 libzstd-dev libdeflate-dev zlib1g-dev libssl-dev pkg-config
TEST_PACKAGES = qemu-utils qemu-system-common libvhdi-utils fio e2fsprogs xfsprogs btrfs-progs dosfstools rsync xz-utils \
	strace util-linux mount parted gdisk mandoc tar binutils procps
DEMO_PACKAGES = qemu-utils e2fsprogs

.PHONY: build run run-arguments test deps build-deps test-deps demo-deps toolchain lint fuzz fuzz-slice torture \
	torture-slice tsan bench debian man install uninstall clean

build: build-deps
	swift build $(RELEASE)

# --- What a fresh machine lacks ---------------------------------------------------------------------------------

deps: build-deps test-deps

# Whoever types `make run` with an argument that is wrong learns it before anything is installed or built.
toolchain: $(if $(filter run,$(MAKECMDGOALS)),run-arguments)
	@command -v swift >/dev/null || { \
	  echo "platter needs the Swift toolchain, 6.2 or newer, and this machine has none." >&2; \
	  echo "Get it from https://www.swift.org/install/linux/ (or with swiftly), put it into PATH, and try again." >&2; \
	  exit 1; }

# install,PACKAGES: installs those that are missing, through apt-get, with sudo when not root.
define install
@missing=; for package in $(1); do \
  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; done; \
[ -z "$$missing" ] && exit 0; \
command -v apt-get >/dev/null || { echo "please install, by the names of Debian:$$missing" >&2; exit 1; }; \
root=; [ "$$(id -u)" = 0 ] || root=sudo; \
[ -z "$$root" ] || command -v sudo >/dev/null || { echo "please run as root: apt-get install$$missing" >&2; exit 1; }; \
echo "installing$$missing"; \
$$root apt-get update && DEBIAN_FRONTEND=noninteractive $$root apt-get install -y --no-install-recommends $$missing
endef

build-deps: toolchain
	$(call install,$(BUILD_PACKAGES))

test-deps: build-deps
	$(call install,$(TEST_PACKAGES))

demo-deps: build-deps
	$(if $(IMAGE),,$(call install,$(DEMO_PACKAGES)))

# --- Trying it --------------------------------------------------------------------------------------------------

# What is said on the command line is in the environment too, where the shell quotes it.
run-arguments:
	@if [ -z "$$IMAGE" ]; then \
	  [ -z "$$AT" ] || { echo "AT says where to mount, but IMAGE is missing: make run IMAGE=FILE AT=DIRECTORY" >&2; exit 1; }; \
	  exit 0; fi; \
	[ -n "$$AT" ] || { echo "say where to mount it: make run IMAGE='$$IMAGE' AT=DIRECTORY" >&2; exit 1; }; \
	[ -e "$$IMAGE" ] || { echo "IMAGE=$$IMAGE: there is no such file or directory" >&2; exit 1; }; \
	[ -r "$$IMAGE" ] || { echo "IMAGE=$$IMAGE: you may not read it" >&2; exit 1; }

run: run-arguments demo-deps build
ifneq ($(IMAGE),)
	@[ -e "$$AT" ] || mkdir -p "$$AT"
	@$(PLATTER) mount -- "$$IMAGE" "$$AT"
	@echo "Unmount with: $(PLATTER) umount '$$AT'"
else
	@mkdir -p demo/disk demo/content
	@[ -e demo/demo.qcow2 ] || { set -e; \
	  echo "making demo/demo.qcow2: a 64 MiB disk with an ext4 filesystem on it"; \
	  echo "You are reading a file inside an ext4 filesystem inside a qcow2 image." > demo/content/hello.txt; \
	  truncate -s 64M demo/demo.part; /sbin/mke2fs -q -t ext4 -d demo/content demo/demo.part; \
	  qemu-img convert -q -f raw -O qcow2 -c demo/demo.part demo/demo.new; \
	  rm demo/demo.part; mv demo/demo.new demo/demo.qcow2; }
	@$(PLATTER) list | grep -qF "$(CURDIR)/demo/disk " || $(PLATTER) demo/demo.qcow2 demo/disk
	@$(hints)
endif

# What to try next: only what works for whoever runs it. A loop device reads as root, and others see the mount of an
# ordinary user only where /etc/fuse.conf says user_allow_other.
define hints
echo; echo "The disk inside demo/demo.qcow2 is now the file demo/disk/demo.qcow2.raw. Try:"; \
echo "  ls -ls demo/disk                                        a sparse file of 64 MiB"; \
echo "  /sbin/debugfs -R 'cat hello.txt' demo/disk/demo.qcow2.raw   a file on it, without root"; \
root=; [ "$$(id -u)" = 0 ] || root='sudo '; \
if [ -e /dev/loop-control ] && { [ -z "$$root" ] || { command -v sudo >/dev/null \
    && grep -Eqs '^[[:space:]]*user_allow_other' $(FUSE_CONF); }; }; then \
  echo "  $${root}mount -o loop,ro demo/disk/demo.qcow2.raw /mnt     the filesystem on it"; \
  echo "  $${root}umount /mnt                                     and its end"; fi; \
echo "  $(PLATTER) info demo/demo.qcow2               what the image is"; \
echo "  $(PLATTER) list                               what is mounted, and by whom it is used"; \
echo "  $(PLATTER) umount demo/disk                   the end"
endef

# --- Checks -----------------------------------------------------------------------------------------------------

# The runner's own summary is the last line: everything else comes before.
test: test-deps lint build
	swift build --build-tests $(SWIFT_FLAGS)
	@$(MAKE) --no-print-directory fuzz-slice torture-slice
	swift test --skip-build $(SWIFT_FLAGS)

lint: toolchain
	swift format lint --strict --recursive Sources Tests Package.swift
	@if command -v mandoc >/dev/null; then mandoc -Tlint -Wwarning man/platter.1; \
	else echo "mandoc is missing: man/platter.1 was not checked"; fi

fuzz: test-deps
	Tests/Fuzz/run.sh $(SECONDS)

fuzz-slice:
	FUZZ_SEED=1 Tests/Fuzz/run.sh 5

# Loss of power, failing hosts and many threads on images of every sort (Tests/Torture), the threads once more under
# ThreadSanitizer, mounts that are killed while they write, and long fuzzing.
torture: test-deps build
	swift build $(RELEASE) --product Torture
	PLATTER_TORTURE_STATES=$(STATES) .build/release/Torture
	@$(MAKE) --no-print-directory tsan
	swift build --build-tests $(SWIFT_FLAGS)
	PLATTER_KILL_ROUNDS=$(KILLS) PLATTER_TORTURE=20 \
	  swift test --skip-build $(SWIFT_FLAGS) --filter 'KillTests|RandomWriteTests'
	Tests/Fuzz/run.sh 600

# The threads of the torture on files of the host, in a build with ThreadSanitizer of its own: about two minutes. Not with
# --static-swift-stdlib: Tests/TSanSupport stands before the library of Swift's locks, and calls it.
tsan: test-deps
	swift build -c release --sanitize=thread --scratch-path .build-tsan $(SWIFT_FLAGS) --product Torture
	.build-tsan/release/Torture threads

torture-slice:
	swift build $(RELEASE) --product Torture
	PLATTER_TORTURE_STATES=2000 .build/release/Torture

# A fresh Debian in a directory: `make run` and `make install` in it. Needs root, debootstrap and a Debian mirror.
debian:
	@Tests/Debian/run.sh $(SUITE)

bench: test-deps build
	@if [ ! -x "$(SHARED)/bench/peers.sh" ]; then \
	  echo "skipped: there is no $(SHARED)/bench/peers.sh (set PLATTER_SHARED)"; exit 0; fi; \
	[ "$$(id -u)" = 0 ] || { echo "make bench needs root: it empties caches and attaches loop devices" >&2; exit 1; }; \
	work=$$(mktemp -d /var/tmp/platter-bench.XXXXXX) && trap 'rm -rf "$$work"' EXIT INT TERM && \
	head -c $(BENCH_MIB)M /dev/urandom > $$work/disk.raw && \
	for format in vhdx vpc qcow2; do \
	  options=; [ $$format = vpc ] && options='-o subformat=dynamic,force_size=on'; \
	  qemu-img convert -q -f raw -O $$format $$options $$work/disk.raw $$work/disk.$$format || exit 1; done && \
	rm $$work/disk.raw && \
	for format in vhdx vpc qcow2; do \
	  "$(SHARED)/bench/peers.sh" -r $(ROUNDS) -w $$work/$$format -W $(BENCH_READS) \
	    -n platter '$(CURDIR)/$(PLATTER) mount -f -o name=disk.raw {img} {mp}' disk.raw \
	    $$work/disk.$$format $$format || exit 1; \
	  $(PLATTER) mount --help | grep -q -e --write || continue; \
	  "$(SHARED)/bench/peers.sh" -r $(ROUNDS) -w $$work/$$format -W $(BENCH_WRITES) \
	    -n platter '$(CURDIR)/$(PLATTER) mount -f -w -o name=disk.raw {img} {mp}' disk.raw \
	    $$work/disk.$$format $$format || exit 1; \
	done

# --- Installing -------------------------------------------------------------------------------------------------

man:
	man ./man/platter.1

# Copies what is built and builds nothing: root's PATH often has no swift, and root's files in .build are in the way.
install:
	@[ -x $(PLATTER) ] || { echo "there is no $(PLATTER) to install: run 'make build' first, as yourself" >&2; exit 1; }
	install -D -s -m 755 $(PLATTER) "$(DESTDIR)$(PREFIX)/bin/platter"
	install -D -m 644 man/platter.1 "$(DESTDIR)$(PREFIX)/share/man/man1/platter.1"
	install -d "$(DESTDIR)$(SBINDIR)"
	ln -sf "$(PREFIX)/bin/platter" "$(DESTDIR)$(SBINDIR)/mount.fuse.platter"
	ln -sf "$(PREFIX)/bin/platter" "$(DESTDIR)$(SBINDIR)/umount.fuse.platter"

uninstall:
	rm -f "$(DESTDIR)$(PREFIX)/bin/platter" "$(DESTDIR)$(PREFIX)/share/man/man1/platter.1" \
	  "$(DESTDIR)$(SBINDIR)/mount.fuse.platter" "$(DESTDIR)$(SBINDIR)/umount.fuse.platter"

clean:
	@! .build/release/platter list 2>/dev/null | grep -qF "$(CURDIR)/demo/" || $(PLATTER) umount demo/disk
	rm -rf .build .build-fuzz .build-tsan demo
