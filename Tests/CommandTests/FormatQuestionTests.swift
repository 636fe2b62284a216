import Formats
import Glibc
import TestSupport
import Testing

@testable import platter

/// What every command says about a file that could be two things, or is no image any more.
@Suite struct FormatQuestionTests {
    private let directory: TemporaryDirectory
    /// A qcow2 image of 1 MiB that is called raw.
    private let cloud: String

    init() throws {
        directory = try TemporaryDirectory("question")
        cloud = directory.file("cloud.img")
        let made = directory.file("made.qcow2")
        guard try Product.run("create", "-q", "-f", "qcow2", made, "1M").succeeded, rename(made, cloud) == 0 else {
            throw HostFailure("cannot make \(cloud)", errno: 0)
        }
    }

    private static let readers: [[String]] = [
        ["info"], ["info", "--chain"], ["map"], ["check"], ["check", "--chain"], ["check", "--repair"],
    ]

    @Test(arguments: readers)
    func aQcow2CalledImgIsRefusedWithBothWaysOut(_ command: [String]) throws {
        let before = try HostFiles.read(cloud)
        let refused = try ChildProcess(Product.path, command + [cloud]).wait()
        #expect(refused.status == (command[0] == "check" ? 1 : 2), "\(refused)")
        #expect(refused.errors.split(separator: "\n").count == 1 && refused.output.isEmpty, "\(refused)")
        #expect(refused.errors.contains("\(cloud): the name says raw"), "\(refused)")
        #expect(refused.errors.contains("-o format=qcow2 or -o format=raw"), "\(refused)")
        for format in ["qcow2", "raw", "qcow2:*.img", "raw:cloud.*"] {
            let told = try ChildProcess(Product.path, command + ["-o", "format=\(format)", cloud]).wait()
            #expect(told.succeeded, "\(told)")
        }
        #expect(try HostFiles.read(cloud) == before)
    }

    @Test func aParentOfANewImage() throws {
        let child = directory.file("child.qcow2")
        let refused = try Product.run("create", "-b", cloud, child)
        #expect(refused.status == 2 && refused.errors.contains("(-F qcow2 or -F raw)"), "\(refused)")
        #expect(!HostFiles.exists(child))
        for format in ["qcow2", "raw"] {
            let made = try Product.run("create", "-q", "--force", "-F", format, "-b", cloud, child)
            #expect(made.succeeded, "\(made)")
            let info = try JSON(parsing: Product.run("info", "--json", child).output)
            #expect(info["parent"]?["format"]?.string == format)
        }
        // The parent's own parent, of which nothing is recorded.
        let middle = directory.file("middle.qcow2")
        #expect(try Product.run("create", "-q", "-F", "qcow2", "-b", cloud, middle).succeeded)
        try forgetFormat(middle)
        let deep = try Product.run("create", "--force", "-b", middle, child)
        #expect(deep.status == 2 && deep.errors.contains("-o backing-format=qcow2 or -o backing-format=raw"), "\(deep)")
        let told = try Product.run("create", "-q", "--force", "-o", "backing-format=qcow2", "-b", middle, child)
        #expect(told.succeeded, "\(told)")
    }

    /// Makes a child one that does not record its parent's format.
    private func forgetFormat(_ path: String) throws {
        let place = try #require(HostFiles.read(path).firstRange(of: [0xE2, 0x79, 0x2A, 0xCA])).lowerBound
        try HostFiles.patch([0x12], at: Int64(place), of: path)
    }

    @Test(arguments: readers.filter { $0 != ["check"] && $0 != ["check", "--repair"] })
    func aParentWithoutARecordedFormat(_ command: [String]) throws {
        let child = directory.file("child.qcow2")
        #expect(try Product.run("create", "-q", "-F", "qcow2", "-b", cloud, child).succeeded)
        try forgetFormat(child)
        // A look at the child alone does without its parent, and says why.
        let result = try ChildProcess(Product.path, command + [child]).wait()
        #expect("\(result)".contains("\(cloud): the name says raw"), "\(result)")
        #expect("\(result)".contains("-o backing-format=qcow2 or -o backing-format=raw"), "\(result)")
        for option in ["backing-format=qcow2", "format=qcow2:*.img", "backing-format=raw"] {
            let told = try ChildProcess(Product.path, command + ["-o", option, child]).wait()
            #expect(told.succeeded, "\(told)")
        }
    }

    /// A rule is for files that are asked about, not for the layers whose format is known.
    @Test func aRuleDoesNotMisleadTheCheckOfAChain() throws {
        let child = directory.file("child.qcow2")
        #expect(try Product.run("create", "-q", "-F", "qcow2", "-b", cloud, child).succeeded)
        let result = try Product.run("check", "--chain", "--json", "-o", "format=raw:*.img", child)
        let reports = try #require(try JSON(parsing: result.output).array, "\(result)")
        #expect(reports.map { $0["format"]?.string } == ["qcow2", "qcow2"])
    }

    // MARK: - Words

    /// One line in the words of the format, and never that it could be a raw disk.
    @Test(arguments: ["info", "map", "check", "create"])
    func damagedAndPackedFiles(_ command: String) throws {
        let cases: [(String, [UInt8], String)] = [
            ("empty.vhdx", [], "the file is empty"),
            ("zeros.vhdx", [UInt8](repeating: 0, count: 1 << 20), "the beginning of the file is zeros"),
            ("cut.vhd", [UInt8](repeating: 9, count: 1 << 20), "no footer at its end: truncated?"),
            ("cut.qcow2", [0x51, 0x46, 0x49, 0xFB], "cut off"),
            ("page.qcow2", Array("<html>404 Not Found</html>".utf8), "HTML page"),
            ("disk.qcow2.xz", [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0, 0, 4], "unpack it first (xz -d FILE)"),
            ("disk.vmdk", Array("KDMV".utf8) + [1, 0, 0, 0], "qemu-img convert"),
            ("disk.vhdz", Array("URBACKUP COMPRESSED FILE#1.0".utf8), "urbackupsrv"),
        ]
        for (name, bytes, words) in cases {
            let path = try directory.write(bytes, to: name)
            let result =
                command == "create"
                ? try Product.run("create", "-b", path, directory.file("new.qcow2")) : try Product.run(command, path)
            #expect(!result.succeeded && result.output.isEmpty, "\(result)")
            #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
            #expect(result.errors.contains("\(path): ") && result.errors.contains(words), "\(result)")
            #expect(!result.errors.contains("format=raw") && !result.errors.contains("-F raw"), "\(result)")
        }
    }

    @Test func aPackedFileThatIsCalledRawIsServedAndSaid() throws {
        let path = try directory.write([0x1F, 0x8B, 8, 0] + [UInt8](repeating: 3, count: 4092), to: "disk.img")
        for command in ["info", "map", "check"] {
            let result = try Product.run(command, path)
            #expect(result.succeeded && result.errors.contains("gzip -dc <FILE >NEW"), "\(result)")
            #expect(try Product.run(command, "-o", "format=raw", path).errors.isEmpty)
        }
    }

    // MARK: - Options

    @Test func rulesAreReadInOrder() throws {
        guard
            case .run(let settings, _) = try OptionTable.mount.parse(
                ["-o", "format=vpc:*.a,format=raw,format=qcow2:b\\,[x:y]?", "a", "b"], into: MountSettings())
        else { return }
        #expect(settings.image.format == "raw")
        #expect(settings.image.formatRules.map(\.format) == ["vhd", "qcow2"])
        #expect(settings.image.formatRules.map(\.pattern.text) == ["*.a", "b,[x:y]?"])
    }

    @Test(arguments: [
        "format=zip:*.img", "format=qcow2:", "format=qcow2:a/*.img", "format=:x", "format=raw:[[:digit:]]",
    ])
    func whatIsNoRule(_ option: String) throws {
        let result = try Product.run("info", "-o", option, cloud)
        #expect(result.status == 1 && result.errors.contains("'format'"), "\(result)")
    }

    // MARK: - Evidence

    @Test(
        .enabled(if: AccessTime.isKept, "the filesystem keeps no access times"),
        arguments: ["info", "map", "check"])
    func theAccessTimeOfWhatIsReadStays(_ command: String) throws {
        let child = directory.file("child.qcow2")
        #expect(try Product.run("create", "-q", "-F", "qcow2", "-b", cloud, child).succeeded)
        for path in [child, cloud] { try AccessTime.makeOld(path) }
        let arguments = command == "check" ? ["--chain", child] : [child]
        #expect(try ChildProcess(Product.path, [command] + arguments).wait().succeeded)
        for path in [child, cloud] { #expect(AccessTime.isOld(path), "\(path)") }
    }

    /// Only its owner and root may leave it alone; others read it all the same.
    @Test(.enabled(if: geteuid() == 0 && Tool.has("setpriv"), "needs root and setpriv"))
    func whoMayNotLeaveItAloneReadsAllTheSame() throws {
        // The product may lie where this user cannot go.
        try runSuccessfully("cp", Product.path, directory.file("platter"))
        try AccessTime.makeOld(cloud)
        let result = try run(
            "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", directory.file("platter"), "info",
            "-o", "format=qcow2", cloud)
        #expect(result.succeeded, "\(result)")
        #expect(!AccessTime.isKept || !AccessTime.isOld(cloud))
    }
}

/// The same by mounts.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct FormatQuestionMountTests {
    private let playground: Playground
    private let cloud: String

    init() throws {
        playground = try Playground()
        cloud = playground.directory.file("cloud.img")
        let made = playground.directory.file("made.qcow2")
        guard try Product.run("create", "-q", made, "1M").succeeded, rename(made, cloud) == 0 else {
            throw HostFailure("cannot make \(cloud)", errno: 0)
        }
    }

    @Test func aQcow2CalledImgIsNotServedInSilence() throws {
        let before = try HostFiles.read(cloud)
        for options in [[], ["-w"], ["--overlay", "tmp"], ["--overlay", playground.directory.file("new.qcow2")]] {
            let refused = try ChildProcess(Product.path, options + [cloud, playground.mountpoint]).wait()
            #expect(refused.status == 32, "\(refused)")
            #expect(refused.errors.contains("-o format=qcow2 or -o format=raw"), "\(refused)")
            #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        }
        #expect(try HostFiles.read(cloud) == before)
        #expect(!HostFiles.exists(playground.directory.file("new.qcow2")))
        for (options, isQcow2) in [
            (["-o", "format=qcow2"], true), (["-o", "format=qcow2:*.img"], true), (["-o", "format=raw"], false),
            (["-o", "format=qcow2:*.img", "--overlay", "tmp"], true),
        ] {
            let mounted = try ChildProcess(Product.path, options + [cloud, playground.mountpoint]).wait()
            #expect(mounted.succeeded, "\(mounted)")
            let shown = try HostFiles.read(playground.mountpoint + "/cloud.img.raw")
            #expect(shown == (isQcow2 ? [UInt8](repeating: 0, count: 1 << 20) : before))
            #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        }
    }

    /// A rule that fits the overlay's name as well is about the image.
    @Test func aRuleIsNotAboutTheOverlay() throws {
        let overlay = playground.directory.file("changes.img")
        for _ in 0..<2 {
            let mounted = try Product.run(
                "-o", "format=raw:*.raw,format=raw:*.img", "--overlay", overlay, playground.image, playground.mountpoint
            )
            #expect(mounted.succeeded, "\(mounted)")
            #expect(try HostFiles.read(playground.disk) == playground.content)
            #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        }
    }

    @Test(
        .enabled(if: FUSE.isThereForRoot && Tool.has("mount.fuse3"), "needs root and mount.fuse3"))
    func aRuleInFstab() throws {
        let program = try ProgramWithoutDots()
        let line =
            "\(cloud) \(playground.mountpoint) fuse.\(program.path) ro,format=raw:*.raw,format=qcow2:cl*.img 0 0\n"
        let table = try playground.directory.write(Array(line.utf8), to: "fstab")
        let result = try run("mount", "-T", table, playground.mountpoint)
        #expect(result.succeeded, "\(result)")
        let shown = try HostFiles.read(playground.mountpoint + "/cloud.img.raw")
        #expect(shown == [UInt8](repeating: 0, count: 1 << 20))
        #expect(try runSuccessfully("umount", playground.mountpoint).isEmpty)
    }

    @Test(.enabled(if: AccessTime.isKept, "the filesystem keeps no access times"))
    func aReadOnlyMountLeavesAccessTimesAlone() throws {
        let child = playground.directory.file("child.qcow2")
        #expect(try Product.run("create", "-q", "-F", "qcow2", "-b", cloud, child).succeeded)
        for path in [child, cloud] { try AccessTime.makeOld(path) }
        #expect(try Product.run(child, playground.mountpoint).succeeded)
        #expect(try HostFiles.read(playground.mountpoint + "/child.qcow2.raw").count == 1 << 20)
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        for path in [child, cloud] { #expect(AccessTime.isOld(path), "\(path)") }
    }
}
