/// What the examples of README.md and of the manual are expected to do. One that is not here makes the suite fail.
///
/// The directory is /img, with win11.vhdx, lin.qcow2 and old.vhd, all of the disk disk.raw; child.qcow2 is a child of
/// /srv/base/base.qcow2. On the first partition of each is a file hello.txt.
enum ExampleRules {
    static let all: [String: ExampleRule] = commands.merging(mounts) { first, _ in first }
        .merging(parents) { first, _ in first }
        .merging(writing) { first, _ in first }.merging(files) { first, _ in first }

    private static let hello = "a file in the image\n"
    private static let same = "cmp /img/disk.raw /mnt/disk/win11.vhdx.raw && echo same"
    private static let gone = ExampleRule.run(then: "findmnt -n /mnt/disk; echo gone", gives: "gone\n")

    // MARK: - Commands that mount nothing

    private static let commands: [String: ExampleRule] = [
        "make run": .instead(
            "make -n -C \"$PACKAGE\" run",
            because: "it installs packages and builds; Tests/Debian/run.sh does all of it",
            shows: ["swift build", "demo/demo.qcow2 demo/disk"]),
        "make test": .instead(
            "make -n -C \"$PACKAGE\" test", because: "this is a part of it", shows: ["swift format lint", "swift test"]),
        "make run IMAGE=win11.vhdx AT=/mnt/disk": .instead(
            "make -n -C \"$PACKAGE\" run IMAGE=/img/win11.vhdx AT=/mnt/disk", because: "it builds",
            shows: ["mount -- \"$IMAGE\" \"$AT\""]),
        "sudo make install": .instead(
            "make -s -C \"$PACKAGE\" install PLATTER=\"$PROGRAM\" DESTDIR=/tmp/root",
            because: "the root of the examples is installed so already",
            then: "ls /tmp/root/usr/local/bin /tmp/root/sbin; readlink /tmp/root/sbin/mount.fuse.platter; platter -V",
            gives: """
                /tmp/root/sbin:
                mount.fuse.platter
                umount.fuse.platter

                /tmp/root/usr/local/bin:
                platter
                /usr/local/bin/platter
                platter 0.1.0

                """),
        "make install": .instead(
            "test -x /usr/local/bin/platter", because: "the root of the examples is installed so already"),
        "make man": .instead("man -l \"$PACKAGE/man/platter.1\" | cat", because: "it ends when the reader does"),
        "man platter": .instead("test -f /usr/local/share/man/man1/platter.1", because: "it ends when the reader does"),
        "make debian SUITE=…": .instead(
            "make -n -C \"$PACKAGE\" debian SUITE=trixie", because: "it needs a Debian mirror and an hour",
            shows: ["Tests/Debian/run.sh trixie"]),
        "platter info": .instead(
            "platter info win11.vhdx && platter info --json win11.vhdx", because: "its operand is missing",
            shows: ["vhdx, dynamic", "\"format\": \"vhdx\""]),
        "platter map": .instead(
            "platter map win11.vhdx && platter map --json win11.vhdx", because: "its operand is missing",
            shows: ["data", "\"place\": \"data\""]),
        "platter check": .instead(
            "platter check win11.vhdx && platter check --json win11.vhdx", because: "its operand is missing",
            shows: ["win11.vhdx: clean", "\"corruptions\": 0"]),
        "platter help COMMAND": .instead(
            "platter help check", because: "its operand stands for one", shows: ["usage: platter check"]),
        "qemu-img convert": .instead(
            "qemu-img convert -O vmdk disk.raw x.vmdk && ! platter x.vmdk /mnt/disk && "
                + "qemu-img convert -O qcow2 x.vmdk x.qcow2 && platter x.qcow2 /mnt/disk",
            because: "its operands are missing", shows: ["/mnt/disk/x.qcow2.raw\n"],
            then: "cmp /mnt/disk/x.qcow2.raw disk.raw && echo same", gives: "same\n"),
        "platter list": .instead(
            "platter win11.vhdx /mnt/disk && platter list && platter list --json", because: "nothing is mounted",
            shows: ["/img/win11.vhdx", "\"mountpoint\": \"/mnt/disk\""]),
        "mkdir -p /mnt/disk /mnt/files": .run(), "mkdir -p /mnt/images": .run(),
    ]

    // MARK: - Mounts that are read

    private static let mounts: [String: ExampleRule] = [
        "platter win11.vhdx /mnt/disk": .run(shows: ["/mnt/disk/win11.vhdx.raw\n"], then: same, gives: "same\n"),
        "platter -o partitions win11.vhdx /mnt/disk": .run(
            shows: ["/mnt/disk/win11.vhdx.raw\n"], then: same, gives: "same\n"),
        "mount -o loop,ro /mnt/disk/win11.vhdx.parts/p1.raw /mnt/files": .run(
            then: "cat /mnt/files/hello.txt; platter list", gives: hello),
        "ls -l /mnt/files": .run(shows: ["hello.txt"]),
        "umount /mnt/files": .run(then: "findmnt -n /mnt/files; echo gone", gives: "gone\n"),
        "platter /var/lib/libvirt/images /mnt/images": .run(
            then: "ls /mnt/images", gives: "disk.raw\nlin.qcow2.raw\nold.vhd.raw\nwin11.vhdx.raw\n"),
        "ls -ls /mnt/images": .run(
            shows: ["win11.vhdx.raw", "lin.qcow2.raw", "old.vhd.raw"],
            then: """
                cp /img/lin.qcow2 /var/lib/libvirt/images/new.qcow2; sleep 1.5; ls /mnt/images
                mv /var/lib/libvirt/images/new.qcow2 /tmp; sleep 1.5; ls /mnt/images | grep -c new
                """,
            gives: "disk.raw\nlin.qcow2.raw\nnew.qcow2.raw\nold.vhd.raw\nwin11.vhdx.raw\n0\n"),
        "platter umount /mnt/images": .run(then: "findmnt -n /mnt/images; echo gone", gives: "gone\n"),
        "platter /var/lib/libvirt/images ~/images": .run(
            then: "cmp ~/images/win11.vhdx.raw disk.raw && echo same", gives: "same\n"),
        "platter --allow-parents /srv/base child.qcow2 ~/disk": .run(
            shows: ["/user/disk/child.qcow2.raw\n"], then: "cmp ~/disk/child.qcow2.raw disk.raw && echo same",
            gives: "same\n"),
        "platter umount ~/images": .run(then: "findmnt -n ~/images; echo gone", gives: "gone\n"),
        "platter umount --wait ~/disk": .run(
            then: "pgrep -x platter; echo gone", gives: "gone\n"),
        "platter umount /mnt/disk": gone,
        "platter umount --wait /mnt/disk": .instead(
            "findmnt -n /mnt/disk >/dev/null || platter win11.vhdx /mnt/disk; platter umount --wait /mnt/disk",
            because: "in the running text there is no mount before it", then: "pgrep -x platter; echo gone",
            gives: "gone\n"),
        "losetup -b 4096 -f --show -P /mnt/disk/win11.vhdx.raw": .instead(
            "platter win11.vhdx /mnt/disk && losetup -b 4096 -f --show -P /mnt/disk/win11.vhdx.raw > /tmp/loops",
            because: "the display has no mount before it",
            then: "cat /sys/block/$(basename $(cat /tmp/loops))/queue/logical_block_size; losetup -d $(cat /tmp/loops)",
            gives: "4096\n"),
        "mount -t fuse.platter": .instead(
            "mount -t fuse.platter /img/win11.vhdx /mnt/disk", because: "its operands are missing", then: same,
            gives: "same\n"),
    ]

    // MARK: - Parents

    /// child.avhdx is a child of p.vhdx, which is now called renamed.vhdx, here and in /old; the p.vhdx that is there has
    /// another identity. c.qcow2 lies on b.qcow2 and that on a.qcow2, both recorded in another directory.
    private static let parents: [String: ExampleRule] = [
        "platter -o parent=/old/renamed.vhdx child.avhdx ~/disk": renamed,
        "platter -o parent=renamed.vhdx child.avhdx ~/disk": renamed,
        "platter -o force-parent child.avhdx /mnt/disk": .run(
            shows: ["/mnt/disk/child.avhdx.raw\n"], then: "cmp /mnt/disk/child.avhdx.raw disk.raw && echo same",
            gives: "same\n"),
        "platter info --chain -o parent=b.qcow2,parent=a.qcow2 c.qcow2": .run(
            shows: ["image:             c.qcow2", "/img/b.qcow2", "/img/a.qcow2"]),
        "platter --allow-parents /dev /dev/vg/child /mnt/disk": .instead(
            """
            base=$(losetup -f --show /srv/base/base.qcow2) && cp child.qcow2 /tmp && \
              qemu-img rebase -q -u -f qcow2 -F qcow2 -b $base /tmp/child.qcow2 && truncate -s 4M /tmp/child.qcow2 && \
              child=$(losetup -f --show /tmp/child.qcow2) && echo $base $child > /tmp/loops && \
              platter --allow-parents /dev $child /mnt/disk
            """,
            because: "a volume group is the host's, and loop devices are block devices too",
            then:
                "cmp /mnt/disk/*.raw disk.raw && echo same; platter umount --wait /mnt/disk; losetup -d $(cat /tmp/loops)",
            gives: "same\n"),
        #"json:{"driver":"qcow2","file":{"driver":"file","filename":"/srv/p"}}"#: .instead(
            #"""
            cp lin.qcow2 /srv/p && cp child.qcow2 json.qcow2 && qemu-img rebase -u -f qcow2 -F qcow2 \#
              -b 'json:{"driver":"qcow2","file":{"driver":"file","filename":"/srv/p"}}' json.qcow2 && \#
              platter --allow-parents /srv json.qcow2 /mnt/disk
            """#,
            because: "it is what an image records", then: "cmp /mnt/disk/json.qcow2.raw disk.raw && echo same",
            gives: "same\n"),
    ]

    private static let renamed = ExampleRule.run(
        shows: ["/user/disk/child.avhdx.raw\n"], then: "cmp ~/disk/child.avhdx.raw disk.raw && echo same",
        gives: "same\n")

    // MARK: - Mounts that are written

    private static let writing: [String: ExampleRule] = [
        "platter -w win11.vhdx /mnt/disk": .run(
            shows: ["/mnt/disk/win11.vhdx.raw\n"],
            then: """
                printf written | dd of=/mnt/disk/win11.vhdx.raw bs=1 seek=600000 conv=notrunc,fsync status=none
                dd if=/mnt/disk/win11.vhdx.raw bs=1 skip=600000 count=7 status=none
                printf '\\0\\0\\0\\0\\0\\0\\0' | dd of=/mnt/disk/win11.vhdx.raw bs=1 seek=600000 conv=notrunc status=none
                """,
            gives: "written"),
        "platter create --parent win11.vhdx today.vhdx": .run(
            shows: ["today.vhdx: vhdx, 17 MiB, a child of win11.vhdx\n"],
            then: "platter check --chain today.vhdx | grep -c clean", gives: "2\n"),
        "platter -w today.vhdx /mnt/disk": .run(
            shows: ["/mnt/disk/today.vhdx.raw\n"],
            then: "cmp /mnt/disk/today.vhdx.raw disk.raw && printf new | dd of=/mnt/disk/today.vhdx.raw "
                + "bs=1 seek=700000 conv=notrunc status=none && echo written",
            gives: "written\n"),
        "platter --overlay tmp today.vhdx /mnt/disk": .run(
            shows: ["/mnt/disk/today.vhdx.raw\n"],
            then:
                "dd if=/mnt/disk/today.vhdx.raw bs=1 skip=700000 count=3 status=none; sha256sum today.vhdx > /tmp/sum; "
                + "printf old | dd of=/mnt/disk/today.vhdx.raw bs=1 seek=700000 conv=notrunc,fsync status=none; "
                + "dd if=/mnt/disk/today.vhdx.raw bs=1 skip=700000 count=3 status=none; sha256sum -c /tmp/sum",
            gives: "newoldtoday.vhdx: OK\n"),
        "platter --overlay tmp win11.vhdx /mnt/disk": .run(
            shows: ["/mnt/disk/win11.vhdx.raw\n"],
            then: "sha256sum win11.vhdx > /tmp/sum; printf old | dd of=/mnt/disk/win11.vhdx.raw bs=1 seek=600000 "
                + "conv=notrunc,fsync status=none; dd if=/mnt/disk/win11.vhdx.raw bs=1 skip=600000 count=3 status=none; "
                + "sha256sum -c /tmp/sum",
            gives: "oldwin11.vhdx: OK\n"),
        "platter create disk.vhdx 64G": .instead(
            "rm -f disk.vhdx; platter create disk.vhdx 64G", because: "it may be there from before",
            shows: ["disk.vhdx: vhdx, 64 GiB\n"], then: "platter check disk.vhdx | grep -c clean", gives: "1\n"),
        "platter -w disk.vhdx /mnt/disk": .run(shows: ["/mnt/disk/disk.vhdx.raw\n"]),
        "mkfs.ext4 /mnt/disk/disk.vhdx.raw": .run(
            then: "mount -o loop,ro /mnt/disk/disk.vhdx.raw /mnt/files && ls /mnt/files && umount /mnt/files",
            gives: "lost+found\n"),
        "dd if=disk.raw of=/mnt/disk/win11.vhdx.raw bs=1M conv=notrunc,fsync": .instead(
            "platter -w win11.vhdx /mnt/disk && "
                + "dd if=disk.raw of=/mnt/disk/win11.vhdx.raw bs=1M conv=notrunc,fsync status=none",
            because: "the display has no mount before it", then: same, gives: "same\n"),
        "qemu-img convert -n -O raw disk.qcow2 /mnt/disk/win11.vhdx.raw": .instead(
            "qemu-img convert -n -O raw lin.qcow2 /mnt/disk/win11.vhdx.raw",
            because: "the disk must be as large as the image's", then: same, gives: "same\n"),
    ]

    // MARK: - Lines of files

    private static let files: [String: ExampleRule] = [
        "/img/win11.vhdx  /mnt/disk  fuse.platter  ro,nofail,allow_other  0 0": .fstab(
            "/img/win11.vhdx  /mnt/disk  fuse.platter  ro,nofail,allow_other  0 0", "/mnt/disk", then: same,
            gives: "same\n"),
        "/img/win11.vhdx  /mnt/disk  fuse.platter  write,nofail,allow_other  0 0": .fstab(
            "/img/win11.vhdx  /mnt/disk  fuse.platter  write,nofail,allow_other  0 0", "/mnt/disk",
            then: "test -w /mnt/disk/win11.vhdx.raw && \(same)", gives: "same\n"),
    ]
}
