import Glibc
import TestSupport

/// One line of README.md or of the manual that a user may type or paste.
struct Example: Hashable, Sendable, CustomStringConvertible {
    /// The line, without prompt and comment.
    var line: String
    /// The number of the block or display that it is in: lines of one belong together.
    var block: Int

    var description: String { line }
}

/// The examples as they stand in the documents.
enum Examples {
    /// Those of the indented blocks of README.md, to be pasted one after another.
    static func ofReadMe() throws -> [Example] {
        var examples: [Example] = []
        var block = 0
        var wasInside = false
        for line in try text("README.md").split(separator: "\n", omittingEmptySubsequences: false) {
            let isInside = line.hasPrefix("    ")
            if isInside && !wasInside { block += 1 }
            if isInside { examples.append(Example(line: withoutComment(line), block: block)) }
            wasInside = isInside
        }
        return examples
    }

    /// The commands that stand in the running text of README.md, each on its own.
    static func inTheTextOfReadMe() throws -> [Example] {
        let prose = try text("README.md").split(separator: "\n").filter { !$0.hasPrefix("    ") }
            .joined(separator: " ")
        let spans = prose.split(separator: "`", omittingEmptySubsequences: false).enumerated()
            .filter { $0.offset % 2 == 1 }.map { String($0.element) }
        let commands = ["platter ", "make ", "sudo ", "mount -t ", "man ", "losetup ", "qemu-img "]
        var seen: Set<String> = []
        return spans.filter { span in commands.contains { span.hasPrefix($0) } && seen.insert(span).inserted }
            .enumerated().map { Example(line: $0.element, block: $0.offset) }
    }

    /// Those of the manual: every line of a literal display. A prompt says that it is typed; what has none belongs into a
    /// file.
    static func ofManual() throws -> [Example] {
        var examples: [Example] = []
        var block = 0
        var isInside = false
        for line in try text("man/platter.1").split(separator: "\n") {
            if line.hasPrefix(".Bd -literal") {
                isInside = true
                block += 1
            } else if line.hasPrefix(".Ed") {
                isInside = false
            } else if isInside {
                let hasPrompt = line.hasPrefix("# ") || line.hasPrefix("$ ")
                examples.append(Example(line: withoutComment(hasPrompt ? line.dropFirst(2) : line), block: block))
            }
        }
        return examples
    }

    private static func text(_ name: String) throws -> String {
        try HostFiles.text(SharedImages.packageRoot + "/" + name)
    }

    /// The line without what stands behind "  #", and without spaces around it.
    private static func withoutComment(_ line: Substring) -> String {
        var text = String(line)
        if let range = text.firstRange(of: "  #") { text = String(text[..<range.lowerBound]) }
        return text.split(separator: " ", omittingEmptySubsequences: false).drop { $0.isEmpty }
            .reversed().drop { $0.isEmpty }.reversed().joined(separator: " ")
    }
}

/// What is expected of an example.
struct ExampleRule: Sendable {
    /// What a shell runs: the example, unless it cannot be run as it stands.
    var runs: String?
    /// Why that is not the example itself.
    var reason: String?
    /// What standard output holds.
    var shows: [String]
    /// What a shell runs afterwards.
    var then: String
    /// What that writes.
    var gives: String

    /// An example that is run as it stands, with status 0.
    static func run(shows: [String] = [], then: String = "", gives: String = "") -> ExampleRule {
        ExampleRule(runs: nil, reason: nil, shows: shows, then: then, gives: gives)
    }

    /// An example in whose place something else is run.
    static func instead(
        _ runs: String, because reason: String, shows: [String] = [], then: String = "", gives: String = ""
    ) -> ExampleRule {
        ExampleRule(runs: runs, reason: reason, shows: shows, then: then, gives: gives)
    }

    /// A line of fstab, and its mountpoint.
    static func fstab(_ line: String, _ mountpoint: String, then: String, gives: String) -> ExampleRule {
        .instead(
            "echo '\(line)' > /etc/fstab && mount \(mountpoint)", because: "a line of a file, as mount(8) reads it",
            then: "\(then); umount \(mountpoint) && echo gone", gives: "\(gives)gone\n")
    }
}

/// A root of its own for commands: the host's files as they are, with a layer above that takes every change and is
/// forgotten, its own processes and mounts, the program installed by `make install`, and the images that the examples name.
final class ExampleRoot {
    /// One command and what it did.
    struct Outcome: CustomStringConvertible {
        var command: String
        var status: String
        var output: String
        var errors: String
        var checked: String

        var description: String { "\(command)\nstatus \(status)\(output)\(errors)afterwards: \(checked)" }
    }

    static let tools = ["unshare", "chroot", "mount", "make", "install", "qemu-img", "mke2fs", "timeout", "bash"]

    private let directory: TemporaryDirectory

    init() throws {
        directory = try TemporaryDirectory("examples")
        mkdir(directory.file("steps"), 0o755)
        mkdir(directory.file("img"), 0o755)
        try makeImages()
    }

    /// A disk with a partition table and a filesystem on its first partition, as the images of the examples.
    private func makeImages() throws {
        let content = directory.file("content")
        mkdir(content, 0o755)
        try directory.write(Array("a file in the image\n".utf8), to: "content/hello.txt")
        let partition = directory.file("partition")
        try directory.write([], to: "partition")
        try HostFiles.truncate(partition, to: 16 << 20)
        try runSuccessfully("mke2fs", "-q", "-t", "ext4", "-d", content, partition)
        var table = [UInt8](repeating: 0, count: 1 << 20)
        let entry: [UInt8] = [0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x80, 0, 0]
        table.replaceSubrange(446..<462, with: entry)
        table.replaceSubrange(510..<512, with: [0x55, 0xAA])
        let disk = try directory.write(table, to: "img/disk.raw")
        try HostFiles.patch(try HostFiles.read(partition), at: 1 << 20, of: disk)
        for (format, name) in [("vhdx", "win11.vhdx"), ("qcow2", "lin.qcow2"), ("vpc", "old.vhd")] {
            try runSuccessfully("qemu-img", "convert", "-f", "raw", "-O", format, disk, directory.file("img/\(name)"))
        }
    }

    /// Runs `steps` one after the other in /img. `keepsMounts` says before which of them everything that is mounted is
    /// left as it is; otherwise it is unmounted first.
    func run(_ steps: [(example: Example, rule: ExampleRule, keepsMounts: Bool)]) throws -> [Outcome] {
        for (index, step) in steps.enumerated() {
            try directory.write(Array((step.rule.runs ?? step.example.line).utf8 + [10]), to: "steps/\(index).run")
            try directory.write(Array(step.rule.then.utf8 + [10]), to: "steps/\(index).then")
            if !step.keepsMounts { try directory.write([], to: "steps/\(index).clean") }
        }
        let script = try directory.write(Array(Self.script.utf8), to: "script")
        let result = try TestSupport.run(
            "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", script,
            directory.path, SharedImages.packageRoot, Product.path, "\(steps.count)", timeout: 600)
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
        return try steps.enumerated().map { index, step in
            Outcome(
                command: step.rule.runs ?? step.example.line, status: try text("\(index).status"),
                output: try text("\(index).out"), errors: try text("\(index).err"),
                checked: try text("\(index).checked"))
        }
    }

    private func text(_ name: String) throws -> String { try HostFiles.text(directory.file("steps/\(name)")) }

    /// Makes the root and runs the steps in it. Arguments: directory of the test, the package, the program, how many steps.
    private static let script = """
        set -e
        directory=$1 package=$2 program=$3 count=$4
        layer=$(mktemp -d "$directory/root.XXXXXX")
        mount -t tmpfs none "$layer"
        mkdir "$layer/upper" "$layer/work" "$layer/root"
        mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
        root=$layer/root
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mount -t proc proc "$root/proc"
        for place in run tmp mnt srv user var/lib; do mkdir -p "$root/$place"; mount -t tmpfs none "$root/$place"; done
        mkdir -p "$root$package" "$root/steps" "$root/img" "$root/mnt/disk" "$root/mnt/files" "$root/mnt/images" \\
          "$root/user/disk" "$root/user/images" "$root/srv/base" "$root/var/lib/libvirt/images"
        mount --rbind "$package" "$root$package"
        mount --bind "$directory/steps" "$root/steps"
        cp "$directory"/img/* "$root/img"
        cp "$directory"/img/* "$root/var/lib/libvirt/images"
        cp "$directory/img/lin.qcow2" "$root/srv/base/base.qcow2"
        cat > "$root/tmp/steps" <<'END'
        clean() {
          sync
          awk '$5 ~ "^/(mnt|user)/" { print $5 }' /proc/self/mountinfo | tac | while read -r place; do
            umount "$place" || umount -l "$place"
          done
          for attempt in $(seq 200); do pgrep -x platter >/dev/null || break; sleep 0.05; done
          rm -f /img/today.vhdx
        }
        unset TMPDIR XDG_RUNTIME_DIR
        export HOME=/user PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
        export PACKAGE=$1 PROGRAM=$2
        make -s -C "$PACKAGE" install PLATTER="$PROGRAM" || exit 1
        cd /img
        qemu-img create -q -f qcow2 -F qcow2 -b /srv/base/base.qcow2 child.qcow2 || exit 1
        cp win11.vhdx p.vhdx
        platter create -q -f vhdx --parent p.vhdx child.avhdx || exit 1
        mkdir /old
        cp p.vhdx /old/renamed.vhdx
        mv p.vhdx renamed.vhdx
        qemu-img dd -f vhdx -O vhdx if=renamed.vhdx of=p.vhdx bs=1M || exit 1
        cp lin.qcow2 a.qcow2
        qemu-img create -q -f qcow2 -F qcow2 -b elsewhere/a.qcow2 -u b.qcow2 17M || exit 1
        qemu-img create -q -f qcow2 -F qcow2 -b elsewhere/b.qcow2 -u c.qcow2 17M || exit 1
        index=0
        while [ $index -lt $3 ]; do
          [ ! -e /steps/$index.clean ] || clean >/tmp/clean 2>&1
          timeout 60 bash /steps/$index.run >/steps/$index.out 2>/steps/$index.err </dev/null
          echo $? >/steps/$index.status
          timeout 60 bash /steps/$index.then >/steps/$index.checked 2>&1 </dev/null
          index=$((index + 1))
        done
        clean >/tmp/clean 2>&1
        exit 0
        END
        status=0
        chroot "$root" bash /tmp/steps "$package" "$program" "$count" || status=$?
        exit $status
        """
}
