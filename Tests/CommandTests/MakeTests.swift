import Glibc
import TestSupport
import Testing

/// The Makefile's commands with stand-ins for the tools that they would call.
@Suite(.enabled(if: Tool.has("make"), "make is missing"))
struct MakeTests {
    /// A copy of the Makefile, a directory of tools that is all of PATH, and a file with the calls of the stand-ins.
    private final class Workshop: Sendable {
        let directory: TemporaryDirectory
        let tools: String

        init(user: Int = 1000) throws {
            directory = try TemporaryDirectory("make")
            tools = directory.file("tools")
            mkdir(tools, 0o755)
            for file in ["Makefile", "man", "Tests"] {
                symlink("\(SharedImages.packageRoot)/\(file)", directory.file(file))
            }
            for name in ["sh", "grep", "mkdir", "install", "ln", "strip", "sed", "rm", "dirname"] {
                symlink(try #require(Tool.find(name)), "\(tools)/\(name)")
            }
            try standIn("id", "echo \(user)")
            try standIn("dpkg-query", "echo install ok installed")
            try standIn("sudo", "exit 0")
        }

        func standIn(_ name: String, _ script: String) throws {
            let text = "#!/bin/sh\necho \(name) \"$@\" >>'\(calls)'\n\(script)\n"
            let path = try directory.write(Array(text.utf8), to: "tools/\(name)")
            chmod(path, 0o755)
        }

        /// Puts a stand-in for the built program where `make build` puts it.
        func pretendToBuild() throws {
            for folder in [".build", ".build/release", "demo"] { mkdir(directory.file(folder), 0o755) }
            symlink("\(tools)/platter", directory.file(".build/release/platter"))
            try standIn("platter", "exit 0")
            try standIn("swift", "exit 0")
            try directory.write([], to: "demo/demo.qcow2")
        }

        var calls: String { directory.file("calls") }
        var called: String { (try? HostFiles.text(calls)) ?? "" }

        func make(_ arguments: String...) throws -> CommandResult {
            try ChildProcess("make", arguments, environment: ["PATH": tools], directory: directory.path).wait()
        }
    }

    @Test(arguments: [
        (["IMAGE=disk.raw"], "say where to mount it: make run IMAGE='disk.raw' AT=DIRECTORY"),
        (["IMAGE=missing.raw", "AT=mnt"], "IMAGE=missing.raw: there is no such file or directory"),
        (["AT=mnt"], "AT says where to mount, but IMAGE is missing"),
    ])
    func runChecksItsArgumentsFirst(_ arguments: [String], _ words: String) throws {
        let workshop = try Workshop()
        try workshop.directory.write([0], to: "disk.raw")
        for parallel in ["-j1", "-j8"] {
            let list = ["run", parallel] + arguments
            let result = try ChildProcess(
                "make", list, environment: ["PATH": workshop.tools], directory: workshop.directory.path
            ).wait()
            #expect(result.status == 2 && result.errors.contains(words), "\(result)")
            #expect(!result.errors.contains("Swift toolchain"), "\(result)")
            #expect(workshop.called.isEmpty && !HostFiles.exists(workshop.directory.file("mnt")))
        }
    }

    @Test func runMountsWhatItIsGiven() throws {
        let workshop = try Workshop()
        try workshop.pretendToBuild()
        try workshop.directory.write([0], to: "my disk.raw")
        let result = try workshop.make("run", "IMAGE=my disk.raw", "AT=new place")
        #expect(result.succeeded && result.text.contains("umount 'new place'"), "\(result)")
        #expect(workshop.called.contains("platter mount -- my disk.raw new place"), "\(workshop.called)")
        #expect(HostFiles.isDirectory(workshop.directory.file("new place")))
    }

    /// A loop device reads as root, and root sees an ordinary user's mount only where that is allowed.
    @Test(arguments: [
        (0, "", "  mount -o loop"), (1000, "", nil), (1000, " user_allow_other\n", "  sudo mount -o loop"),
    ])
    func runNamesOnlyWhatWorks(_ user: Int, _ configuration: String, _ hint: String?) throws {
        let workshop = try Workshop(user: user)
        try workshop.pretendToBuild()
        let file = try workshop.directory.write(Array(configuration.utf8), to: "fuse.conf")
        let result = try workshop.make("run", "FUSE_CONF=\(file)")
        #expect(result.succeeded, "\(result)")
        let lines = result.text.split(separator: "\n").map(String.init)
        #expect(lines.contains { $0.contains("platter umount demo/disk") }, "\(lines)")
        let loop = lines.first { $0.contains("mount -o loop") }
        guard HostFiles.exists("/dev/loop-control"), let hint else {
            #expect(loop == nil)
            return
        }
        #expect(loop?.hasPrefix(hint) == true, "\(lines)")
    }

    @Test func installBuildsNothing() throws {
        let workshop = try Workshop(user: 0)
        let root = workshop.directory.file("root")
        let missing = try workshop.make("install", "DESTDIR=\(root)")
        #expect(missing.status == 2 && missing.errors.contains("run 'make build' first"), "\(missing)")
        #expect(!HostFiles.exists(root))

        for folder in [".build", ".build/release"] { mkdir(workshop.directory.file(folder), 0o755) }
        try runSuccessfully("cp", try #require(Tool.find("true")), workshop.directory.file(".build/release/platter"))
        let done = try workshop.make("install", "DESTDIR=\(root)", "PREFIX=/usr")
        #expect(done.succeeded, "\(done)")
        for name in ["usr/bin/platter", "usr/share/man/man1/platter.1"] { #expect(HostFiles.exists("\(root)/\(name)")) }
        let link = try runSuccessfully("readlink", "\(root)/sbin/mount.fuse.platter")
        #expect(link == "/usr/bin/platter\n")
        #expect(workshop.called.isEmpty, "\(workshop.called)")
    }

    @Test func theDebianScriptSaysWhatItLacks() throws {
        let workshop = try Workshop(user: 1000)
        let script = SharedImages.packageRoot + "/Tests/Debian/run.sh"
        func attempt(_ arguments: String...) throws -> CommandResult {
            try ChildProcess(script, arguments, environment: ["PATH": workshop.tools]).wait()
        }
        let skipped = try attempt()
        #expect(skipped.succeeded && skipped.text.hasPrefix("skipped: only root"), "\(skipped)")
        #expect(try workshop.make("debian", "SUITE=bookworm").text.hasPrefix("skipped: only root"))
        #expect(try attempt("trixie", "bookworm").status == 2)
        #expect(try attempt("--force").status == 2)
        #expect(try attempt("../etc").status == 1)
        #expect(try attempt("-h").text.hasPrefix("run.sh [SUITE]"))
        try workshop.standIn("id", "echo 0")
        let toolless = try attempt("trixie")
        #expect(toolless.succeeded && toolless.text == "skipped: debootstrap is missing\n", "\(toolless)")
    }
}
