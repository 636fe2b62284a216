import Glibc
import TestSupport
import Testing

/// Standard output that is full, closed, or that nobody reads; and what a server is to write once it is ready.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct OutputTests {
    private func shell(_ command: String, _ playground: Playground) throws -> CommandResult {
        try run(
            "sh", "-c", "cd '\(playground.directory.path)'; " + command, "sh", Product.path, timeout: 60)
    }

    @Test(arguments: [">/dev/full", ">&-", "| true"], ["", "-f "])
    func aMountThatSucceededDoesNotFailForItsList(_ output: String, _ foreground: String) throws {
        let playground = try Playground()
        let ending = foreground.isEmpty ? "" : "&"
        let result = try shell(
            """
            { "$1" --log log \(foreground)disk.raw mnt \(output); } 2>said \(ending)
            for i in $(seq 100); do cmp -s mnt/disk.raw disk.raw && break; sleep 0.05; done
            cmp mnt/disk.raw disk.raw && "$1" umount --wait mnt && wait $!
            """, playground)
        #expect(result.succeeded, "\(result)")
        let said = try HostFiles.text(playground.directory.file("said"))
        #expect(said.isEmpty == output.contains("true"), "\(said)")
        #expect(said.isEmpty || said.hasPrefix("platter: all is done, but standard output does not take"), "\(said)")
    }

    @Test(arguments: [("info", 2), ("map", 2), ("check", 1)], [">/dev/full", ">&-"])
    func anAnswerThatIsLostIsAnError(_ command: (name: String, status: Int32), _ output: String) throws {
        let playground = try Playground()
        let result = try shell("\"$1\" \(command.name) disk.raw \(output)", playground)
        #expect(result.status == command.status, "\(result)")
        let reason = output == ">&-" ? "it is closed" : "no space left on device"
        #expect(result.errors == "platter: cannot write to standard output: \(reason)\n", "\(result)")
    }

    @Test func aListThatIsLostIsAnError() throws {
        let playground = try Playground()
        #expect(try shell("\"$1\" --log log disk.raw mnt", playground).succeeded)
        #expect(try shell("\"$1\" list >/dev/full", playground).status == 2)
        #expect(try shell("\"$1\" list | true", playground).errors.isEmpty)
        #expect(try shell("\"$1\" umount --wait mnt", playground).succeeded)
    }

    @Test func whatWasMadeStaysMade() throws {
        let playground = try Playground()
        let result = try shell("\"$1\" create -f qcow2 new.qcow2 1M >/dev/full", playground)
        #expect(result.status == 0 && result.errors.contains("standard output"), "\(result)")
        #expect(try shell("\"$1\" check new.qcow2", playground).succeeded)
        let repair = try shell("\"$1\" check --repair new.qcow2 >/dev/full", playground)
        #expect(repair.status == 0 && repair.errors.contains("standard output"), "\(repair)")
    }

    /// Like cat: no word, and the status that SIGPIPE makes.
    @Test(.enabled(if: Tool.has("bash"), "bash is missing"), arguments: ["info", "map", "check", "map --json"])
    func aPipeThatNobodyReadsIsQuiet(_ command: String) throws {
        let playground = try Playground()
        let script = "{ sleep 0.3; exec \"$1\" \(command) \"$2\"; } | true; echo ${PIPESTATUS[0]}"
        let result = try run("bash", "-c", script, "bash", Product.path, playground.image)
        #expect(result.text == "141\n" && result.errors.isEmpty, "\(result)")
    }

    @Test(arguments: [
        ("missing/pid", "there is no directory"), ("mnt", "it is a directory"), ("disk.raw/pid", "not a directory"),
        ("/proc/pid", "no such file"), ("new/", "it is a directory"), ("/dev/full", "it is no regular file"),
        ("/dev/null", "it is no regular file"),
    ])
    func aPidFileThatCannotBeWrittenIsAnErrorBeforeTheMount(_ path: String, _ words: String) throws {
        let playground = try Playground()
        let result = try shell("\"$1\" --pid-file \(path) disk.raw mnt", playground)
        #expect(result.status == 2 && result.errors.contains(words), "\(result)")
        #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        #expect(try HostFiles.list(playground.directory.path) == ["disk.raw", "mnt"])
    }

    /// A new file, one that is there and empty, and one that has room for a number already.
    @Test(.enabled(if: Namespace.isThere, "needs root and unshare"))
    func aPidFileOnAFullFilesystem() throws {
        let playground = try Playground()
        let script = """
            mkdir full; mount -t tmpfs -o size=64k none full; echo old > full/old; : > full/empty
            dd if=/dev/zero of=full/rest status=none
            for name in new empty; do
              "$1" --pid-file full/$name disk.raw mnt 2>said && exit 8
              grep -q "full/$name: the pid file cannot be written: no space left on device" said || exit 9
            done
            test "$(ls full)" = "$(printf 'empty\nold\nrest')" || exit 10
            "$1" --log log --pid-file full/old disk.raw mnt && test "$(cat full/old)" -gt 1 && "$1" umount --wait mnt
            """
        let result = try run(
            "unshare", "-m", "sh", "-c", "cd '\(playground.directory.path)'; " + script, "sh", Product.path,
            timeout: 60)
        #expect(result.succeeded, "\(result)")
    }

    @Test func aReadyDescriptorThatTakesNothingIsSaid() throws {
        let playground = try Playground()
        let result = try shell(
            "\"$1\" --log log --ready-fd 7 disk.raw mnt 7>/dev/full && \"$1\" umount --wait mnt", playground)
        #expect(result.succeeded, "\(result)")
        let log = try HostFiles.text(playground.directory.file("log"))
        #expect(log.contains("--ready-fd: descriptor 7 ") && log.contains("no space left on device"), "\(log)")
    }

    @Test(.enabled(if: geteuid() == 0 && Tool.has("setpriv"), "needs root and setpriv"))
    func aPidFileInAClosedDirectory() throws {
        let playground = try Playground()
        try runSuccessfully("cp", Product.path, playground.directory.file("platter"))
        let result = try shell(
            "setpriv --reuid 65534 --regid 65534 --clear-groups ./platter --pid-file pid disk.raw mnt", playground)
        #expect(result.status == 2 && result.errors.contains("pid: the pid file cannot be written: permission denied"))
    }

    @Test func aReadyDescriptorThatIsNotOpenIsAnErrorBeforeTheMount() throws {
        let playground = try Playground()
        for (redirection, words) in [("7>&-", "is not open"), ("7</dev/null", "cannot be written")] {
            let result = try shell("\"$1\" --ready-fd 7 disk.raw mnt \(redirection)", playground)
            #expect(result.status == 1 && result.errors.contains("descriptor 7 \(words)"), "\(result)")
            #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        }
        let script = "\"$1\" --log log --ready-fd 7 disk.raw mnt 7>ready && \"$1\" umount --wait mnt"
        let result = try shell(script, playground)
        #expect(result.succeeded, "\(result)")
        #expect(try HostFiles.text(playground.directory.file("ready")) == "\n")
    }

    /// Not among the words of a mount that succeeded.
    @Test(.enabled(if: geteuid() == 0 && Tool.has("setpriv"), "needs root and setpriv"))
    func whatIsNotPermittedIsOneLineOfTheLog() throws {
        let playground = try Playground()
        let drop = "setpriv --bounding-set -sys_resource,-setpcap --inh-caps -sys_resource --"
        let result = try shell("\(drop) \"$1\" --log log -w disk.raw mnt && \"$1\" umount --wait mnt", playground)
        #expect(result.succeeded && result.errors.isEmpty, "\(result)")
        let lines = try HostFiles.text(playground.directory.file("log")).split(separator: "\n")
        let found = lines.filter { $0.contains("I/O flusher") || $0.contains("oom_score") }
        #expect(found.count == 1 && found[0].contains(" notice not permitted here: "), "\(lines)")
    }
}
