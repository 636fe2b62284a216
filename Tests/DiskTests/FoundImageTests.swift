@testable internal import Disk
internal import Formats
internal import Glibc
internal import Storage
internal import TestSupport
internal import Testing

/// An image that somebody has looked up already: its path is looked up no more.
@Suite struct FoundImageTests {
    private let scratch: TemporaryDirectory
    private let home: String

    init() throws {
        scratch = try TemporaryDirectory("found")
        home = try #require(HostPath.real(scratch.path))
    }

    @Test func theDescriptorCountsAndNotThePath() throws {
        let path = try scratch.write([UInt8](repeating: 1, count: 512), to: "disk.raw")
        let descriptor = open(path, O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        let other = try scratch.write([UInt8](repeating: 2, count: 512), to: "other")
        try #require(rename(other, path) == 0)
        var options = DiskOptions.quiet
        options.found = DiskOptions.Found(descriptor: descriptor, directories: [home])
        #expect(try Disk.open(path: path, options: options).content().first == 1)
        options.found?.descriptor = nil
        #expect(try Disk.open(path: path, options: options).content().first == 2)
    }

    @Test func aDirectoryThatHasBecomeALinkIsNotTrusted() throws {
        let path = try scratch.write([UInt8](repeating: 1, count: 512), to: "disk.raw")
        try #require(mkdir(scratch.file("real"), 0o755) == 0 && symlink("real", scratch.file("link")) == 0)
        var options = DiskOptions.quiet
        options.found = DiskOptions.Found(directories: [home + "/real"])
        #expect(try Disk.open(path: path, options: options).size == 512)
        options.found = DiskOptions.Found(directories: [home + "/link"])
        #expect(try failure { try Disk.open(path: path, options: options) }.errno == ELOOP)
    }

    /// Names in the image are relative to the directories of its finder, wherever the path seems to be.
    @Test func namesAreRelativeToWhereItWasFound() throws {
        for name in ["near", "far"] { try #require(mkdir(scratch.file(name), 0o755) == 0) }
        var options = DiskOptions.quiet
        options.found = DiskOptions.Found(directories: [home + "/near", home + "/far"])
        let gate = try OpenGate(image: "/elsewhere/disk", found: options.found, allowed: [])
        #expect(
            try gate.candidates(.init(base: .image, text: "p"), namedBy: "/elsewhere/disk")
                == [home + "/near/p", home + "/far/p"])
        #expect(try gate.candidates(.init(base: .image, text: "p"), namedBy: home + "/near/disk") == [home + "/near/p"])
    }
}
