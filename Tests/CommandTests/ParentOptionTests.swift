import Formats
import Glibc
import TestSupport
import Testing

@testable import platter

/// `-o parent=`, `-o force-parent`, `-o max-layers=` and `--allow-parents`, as a user says them.
@Suite struct ParentOptionTests {
    private let directory: TemporaryDirectory

    init() throws {
        directory = try TemporaryDirectory("parents")
        for name in ["home", "other", "mnt"] { mkdir(directory.file(name), 0o755) }
    }

    private func run(_ arguments: String...) throws -> CommandResult {
        try ChildProcess(Product.path, arguments, directory: directory.path).wait(timeout: 30)
    }

    /// A base whose first bytes are "base", moved away after a child was made of it.
    private func movedParent(_ kind: String) throws {
        let base = directory.file("home/base.\(kind)")
        #expect(try run("create", "-q", base, "4M").succeeded)
        if kind == "vhd" {
            // A fixed one holds the bytes where they are.
            unlink(base)
            #expect(try run("create", "-q", "-o", "subformat=fixed", base, "4M").succeeded)
            try HostFiles.patch(Array("base".utf8), at: 0, of: base)
        }
        #expect(try run("create", "-q", "--parent", base, "home/child.\(kind)").succeeded)
        #expect(rename(base, directory.file("other/renamed.\(kind)")) == 0)
    }

    @Test(arguments: ["vhd", "vhdx", "qcow2"]) func everyCommandThatOpensAChainKnowsIt(_ kind: String) throws {
        try movedParent(kind)
        let parent = "parent=other/renamed.\(kind)"
        for command in ["info", "map", "check"] {
            let result = try run(command, "-o", parent, "home/child.\(kind)")
            #expect(result.succeeded && !"\(result)".contains("missing"), "\(result)")
            let wrong = try run(command, "-o", "parent=other/none", "home/child.\(kind)")
            #expect("\(wrong)".contains(directory.file("other/none")), "\(wrong)")
        }
        let info = try JSON(parsing: run("info", "--json", "-o", parent, "home/child.\(kind)").output)
        #expect(info["parent"]?["path"]?.string == directory.file("other/renamed.\(kind)"))
        let chain = try run("check", "--chain", "-o", parent, "home/child.\(kind)")
        #expect(chain.succeeded && chain.text.contains("renamed.\(kind)"), "\(chain)")
    }

    @Test(.enabled(if: FUSE.isThere, "\(FUSE.skipReason)")) func aMountFindsItFromTheUsersDirectory() throws {
        try movedParent("vhd")
        let refused = try run("home/child.vhd", "mnt")
        #expect(refused.status == 32 && refused.errors.contains("-o parent=FILE"), "\(refused)")
        let lines = refused.errors.split(separator: "\n")
        #expect(lines.count == 1, "\(refused)")
        defer { _ = try? run("umount", "--wait", "mnt") }
        let mounted = try run("-o", "ro,parent=other/renamed.vhd", "home/child.vhd", "mnt")
        #expect(mounted.succeeded, "\(mounted)")
        #expect(try HostFiles.read(directory.file("mnt/child.vhd.raw")).prefix(4) == Array("base".utf8)[...])
    }

    @Test(.enabled(if: FUSE.isThere, "\(FUSE.skipReason)")) func anOverlayLiesOverAnImageWhoseParentIsNamed() throws {
        try movedParent("vhd")
        for _ in 0..<2 {
            let mounted = try run("--overlay", "over.qcow2", "-o", "parent=other/renamed.vhd", "home/child.vhd", "mnt")
            #expect(mounted.succeeded, "\(mounted)")
            #expect(try HostFiles.read(directory.file("mnt/child.vhd.raw")).prefix(4) == Array("base".utf8)[...])
            #expect(try run("umount", "--wait", "mnt").succeeded)
        }
    }

    @Test func aStrangerIsReadWithALine() throws {
        try movedParent("vhdx")
        #expect(try run("create", "-q", "other/stranger.vhdx", "4M").succeeded)
        let refused = try run("map", "-o", "parent=other/stranger.vhdx", "home/child.vhdx")
        #expect(refused.status == 2 && refused.errors.contains("-o force-parent"), "\(refused)")
        let forced = try run("map", "-o", "force-parent,parent=other/stranger.vhdx", "home/child.vhdx")
        #expect(forced.succeeded && forced.errors.contains("-o force-parent"), "\(forced)")
        #expect(forced.errors.count { $0 == "{" } == 2, "\(forced)")
    }

    @Test func whatContradictsItselfIsAnErrorOfUse() throws {
        try movedParent("vhdx")
        for (arguments, word) in [
            (["-w", "-o", "force-parent", "home/child.vhdx", "mnt"], "write"),
            (["--overlay", "tmp", "-o", "force-parent", "home/child.vhdx", "mnt"], "overlay"),
            (["-o", "parent=other/renamed.vhdx", "home", "mnt"], "'parent' is for one image"),
            (["-o", "force-parent", "home", "mnt"], "'force-parent' is for one image"),
            (["-o", "max-layers=0", "home/child.vhdx", "mnt"], "from 1 to 1024"),
            (["-o", "parent=", "home/child.vhdx", "mnt"], "parent"),
            (["-o", "parent", "home/child.vhdx", "mnt"], "parent"),
        ] {
            let result = try ChildProcess(Product.path, arguments, directory: directory.path).wait(timeout: 30)
            #expect(result.status == 1 && result.errors.contains(word), "\(result)")
        }
        let more = try run("info", "-o", "parent=other/renamed.vhdx,parent=other/more", "home/child.vhdx")
        #expect(more.status == 2 && more.errors.contains("more parents"), "\(more)")
    }

    @Test func theLimitOnLayersIsAnOption() throws {
        try movedParent("qcow2")
        let list = "parent=other/renamed.qcow2,max-layers="
        #expect(try run("info", "-o", list + "2", "home/child.qcow2").succeeded)
        let refused = try run("info", "-o", list + "1", "home/child.qcow2")
        #expect(refused.status == 2 && refused.errors.contains("-o max-layers=N"), "\(refused)")
    }

    @Test func theHelpNamesThem() throws {
        for command in ["mount", "info", "map", "check"] {
            let help = try run(command, "--help").text
            for option in ["parent=FILE", "force-parent", "max-layers=N"] {
                #expect(help.contains(option), "\(command)")
            }
        }
    }
}
