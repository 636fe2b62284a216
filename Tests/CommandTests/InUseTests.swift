import Glibc
import Storage
import TestSupport
import Testing

/// An image that another program is using: refused, or looked at with `-U` and a warning.
@Suite struct InUseTests {
    private let directory: TemporaryDirectory
    private let image: String
    /// Holds the locks of a writer, as QEMU does.
    private let writer: FileStorage

    init() throws {
        directory = try TemporaryDirectory("in-use")
        image = directory.file("vm.qcow2")
        guard try Product.run("create", "-q", image, "16M").succeeded else { throw HostFailure("create", errno: 0) }
        writer = try FileStorage(path: image, isWritable: true)
        guard try FileLock.lockForWriting(writer) else { throw HostFailure("the filesystem has no locks", errno: 0) }
    }

    @Test func infoAndMapLookOnWithAWarning() throws {
        for command in ["info", "map"] {
            for options in [[], ["-U"], ["--force-share"], ["-o", "force-share"]] {
                let result = try ChildProcess(Product.path, [command] + options + [image]).wait()
                #expect(result.status == 0, "\(result)")
                #expect(result.errors.contains("may be torn") && result.errors.contains("pid \(getpid())"), "\(result)")
                #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
            }
        }
    }

    @Test func aCheckNeedsTheWord() throws {
        let refused = try Product.run("check", image)
        #expect(refused.status == 1 && refused.errors.contains("-U"), "\(refused)")
        let result = try Product.run("check", "-U", image)
        #expect(result.status == 0 && result.text.contains("a change half made"), "\(result)")
        #expect(try JSON(parsing: Product.run("check", "-U", "--json", image).output)["inUse"] == .bool(true))
        let repair = try Product.run("check", "-U", "--repair", image)
        #expect(repair.status == 1 && repair.errors.contains("--repair"), "\(repair)")
    }

    @Test func nobodyIsKeptOut() throws {
        writer.close()
        let quiet = try Product.run("info", image)
        #expect(quiet.status == 0 && quiet.errors.isEmpty, "\(quiet)")
        let shared = try Product.run("check", "-U", image)
        #expect(shared.status == 0 && shared.errors.contains("without locks"), "\(shared)")
        #expect(!shared.text.contains("half made"), "\(shared)")
    }

    @Test func aChildIsNotMadeOfWhatIsWritten() throws {
        let result = try Product.run("create", "--parent", image, directory.file("child.qcow2"))
        #expect(result.status == 2 && result.errors.contains("is writing to the parent"), "\(result)")
        #expect(!result.errors.contains("-U"), "\(result)")
    }

    @Test(arguments: [["-w"], ["--overlay", "tmp"]])
    func whatIsSharedIsNotWritten(_ options: [String]) throws {
        let arguments = ["mount", "-U"] + options + [image, directory.path]
        let result = try ChildProcess(Product.path, arguments).wait()
        #expect(result.status == 1 && result.errors.contains("'force-share'"), "\(result)")
    }

    @Test(.enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
    func aMountReadsItOnlyWhenTold() throws {
        let point = directory.file("point")
        mkdir(point, 0o755)
        let log = directory.file("log")
        let refused = try Product.run("mount", image, point)
        #expect(refused.status == 32 && refused.errors.contains("-U"), "\(refused)")
        #expect(refused.errors.contains("pid \(getpid())"), "\(refused)")
        let mounted = try Product.run("mount", "--log", log, "-o", "force-share", image, point)
        #expect(mounted.status == 0, "\(mounted)")
        defer { _ = try? Product.run("umount", "--wait", point) }
        #expect(try HostFiles.text(log).contains("may be torn"))
        #expect(try HostFiles.read(point + "/vm.qcow2.raw").allSatisfy { $0 == 0 })
        // The one who writes it is not kept from coming back.
        writer.close()
        let again = try FileStorage(path: image, isWritable: true)
        #expect(try FileLock.lockForWriting(again))
    }

    @Test(.enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
    func anImageOfADirectoryIsReadOnlyWhenTold() throws {
        let other = try TemporaryDirectory("in-use-point")
        let point = other.file("point")
        mkdir(point, 0o755)
        for (options, isRead) in [([], false), (["-o", "force-share"], true)] {
            let mounted = try ChildProcess(Product.path, ["mount"] + options + [directory.path, point]).wait()
            #expect(mounted.status == 0, "\(mounted)")
            let descriptor = open(point + "/vm.qcow2.raw", O_RDONLY)
            #expect((descriptor >= 0) == isRead, "\(options)")
            if descriptor >= 0 { close(descriptor) }
            #expect(try Product.run("umount", "--wait", point).succeeded)
        }
    }

    /// A VM allocates past what was the end of the file when it was opened.
    @Test(.enabled(if: FUSE.isThere && Tool.has("qemu-io"), "needs /dev/fuse and qemu-io"))
    func aFileThatGrowsIsReadOn() throws {
        writer.close()
        let point = directory.file("point")
        mkdir(point, 0o755)
        let mounted = try Product.run("mount", "-U", image, point)
        #expect(mounted.status == 0, "\(mounted)")
        defer { _ = try? Product.run("umount", "--wait", point) }
        let descriptor = open(point + "/vm.qcow2.raw", O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        try runSuccessfully("qemu-io", "-f", "qcow2", "-c", "write -P 0x61 5M 1M", image)
        var byte: UInt8 = 0
        #expect(pread(descriptor, &byte, 1, 5 << 20) == 1 && byte == 0x61)
    }
}
