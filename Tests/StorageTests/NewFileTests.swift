internal import Bytes
internal import Glibc
import Storage
import TestSupport
import Testing

/// Files that appear under their name only when they are whole.
@Suite struct NewFileTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("new") }

    private func write(_ bytes: [UInt8], to file: NewFile) throws {
        try bytes.withUnsafeBytes { buffer in try file.storage.write(at: HostOffset(0), buffer) }
    }

    @Test func nothingIsSeenUntilTheFileIsKept() throws {
        let path = directory.file("a")
        let file = try NewFile(path: path)
        try write([1, 2, 3], to: file)
        #expect(!HostFiles.exists(path))
        try file.keep()
        #expect(try HostFiles.read(path) == [1, 2, 3])
        #expect(try HostFiles.list(directory.path) == ["a"])
        file.remove()
        #expect(try HostFiles.list(directory.path).isEmpty)
    }

    @Test func whatIsNotKeptIsGone() throws {
        do {
            let file = try NewFile(path: directory.file("a"))
            try write([1], to: file)
        }
        #expect(try HostFiles.list(directory.path).isEmpty)
    }

    @Test func aNameThatIsTakenMeanwhileStaysWithItsFile() throws {
        let path = directory.file("a")
        let file = try NewFile(path: path)
        try HostFiles.write([9], to: path)
        let error = #expect(throws: ImageError.self) { try file.keep() }
        #expect(error?.errno == EEXIST && error?.description.contains("--force") == true)
        #expect(try HostFiles.read(path) == [9])
    }

    @Test func replacingIsOneStep() throws {
        let path = try directory.write([9], to: "a")
        let error = #expect(throws: ImageError.self) { try NewFile(path: path) }
        #expect(error?.kind == .denied)
        let file = try NewFile(path: path, replaces: true)
        try write([1, 2], to: file)
        #expect(try HostFiles.read(path) == [9])
        try file.keep()
        #expect(try HostFiles.read(path) == [1, 2])
        #expect(try HostFiles.list(directory.path) == ["a"])
    }

    @Test func aLockedFileADirectoryAndALinkAreNotReplaced() throws {
        let path = try directory.write([9], to: "a")
        let holder = try FileStorage(path: path)
        #expect(try FileLock.lockForReading(holder))
        let busy = #expect(throws: ImageError.self) { try NewFile(path: path, replaces: true) }
        #expect(busy?.kind == .busy)
        let link = directory.file("link")
        #expect(symlink("a", link) == 0)
        for other in [link, directory.path] {
            let error = #expect(throws: ImageError.self) { try NewFile(path: other, replaces: true) }
            #expect(error?.kind == .denied, "\(other)")
        }
        holder.close()
    }

    @Test(arguments: ["", "nowhere/a", ".", "sub/.."])
    func aNameThatIsNoneIsRefused(_ name: String) throws {
        #expect(throws: ImageError.self) { try NewFile(path: directory.file(name)) }
    }
}
