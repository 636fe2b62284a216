internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// A kind of image that can be written, made by QEMU.
struct WritableFormat: Sendable, CustomTestStringConvertible {
    /// Also the ending of the image's name.
    var name: String
    var driver: String
    var options: [String]

    var testDescription: String { ([name] + options).joined(separator: " ") }

    static let raw = WritableFormat(name: "raw", driver: "raw", options: [])
    static let vhdx = WritableFormat(name: "vhdx", driver: "vhdx", options: ["block_size=1M"])
    static let vhd = WritableFormat(name: "vhd", driver: "vpc", options: ["subformat=dynamic", "force_size=on"])
    static let qcow2 = WritableFormat(name: "qcow2", driver: "qcow2", options: [])

    /// Every kind that allocates as it is written.
    static let sparse = [vhdx, vhd, qcow2]
    static let all = [raw] + sparse

    /// Makes an empty image of `size` bytes and returns its path.
    func make(_ size: Int, in work: TemporaryDirectory, name stem: String = "disk") throws -> String {
        let path = work.file("\(stem).\(name)")
        let list = options.isEmpty ? [] : ["-o", options.joined(separator: ",")]
        let made = try ChildProcess("qemu-img", ["create", "-q", "-f", driver] + list + [path, "\(size)"]).wait()
        guard made.succeeded else { throw HostFailure("\(made)", errno: 0) }
        return path
    }

    /// The name of the whole disk in the mount of an image that `make` made.
    func shown(_ stem: String = "disk") -> String { name == "raw" ? "\(stem).raw" : "\(stem).\(name).raw" }

    /// Lets platter, and QEMU where it can, look for damage in the image at `path`. Leaks are none where `isFinal`.
    func check(_ path: String, isFinal: Bool = true) throws {
        guard name != "raw" else { return }
        let own = try run(Served.program, "check", path)
        #expect(own.status == 0 || (!isFinal && own.status == 3), "\(own)")
        guard name == "qcow2" else { return }
        let theirs = try run("qemu-img", "check", "-f", driver, path)
        #expect(theirs.status == 0 || (!isFinal && theirs.status == 3), "\(theirs)")
    }

    /// Expects that QEMU reads from the image what the flat file `model` holds.
    func expectEqual(_ path: String, _ model: String) throws {
        let result = try run("qemu-img", "compare", "-f", driver, "-F", "raw", path, model, timeout: 120)
        #expect(result.succeeded, "\(result)")
    }
}

/// An open file that a test reads and writes by plain calls.
final class OpenedFile {
    let descriptor: Int32
    private var isClosed = false

    init(_ path: String, _ flags: Int32 = O_RDWR) throws {
        descriptor = open(path, flags)
        guard descriptor >= 0 else { throw HostFailure("open \(path)") }
    }

    deinit { close() }

    func close() {
        if !isClosed { Glibc.close(descriptor) }
        isClosed = true
    }

    func write(_ bytes: [UInt8], at offset: Int) throws {
        let count = bytes.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, bytes.count, off_t(offset)) }
        guard count == bytes.count else { throw HostFailure("\(count) of \(bytes.count) bytes at \(offset)") }
    }

    func read(_ count: Int, at offset: Int) throws -> [UInt8] { try Seen.bytes(descriptor, offset, count) }

    func synchronise() throws {
        guard fsync(descriptor) == 0 else { throw HostFailure("fsync") }
    }

    /// fallocate(2): 3 punches a hole, 17 makes zeros.
    func allocate(_ mode: Int32, at offset: Int, count: Int) throws {
        guard clinux_fallocate(descriptor, mode, Int64(offset), Int64(count)) == 0 else {
            throw HostFailure("fallocate mode \(mode), \(count) at \(offset)")
        }
    }
}

extension [UInt8] {
    /// Copies all bytes to `target`.
    func copy(to target: UnsafeMutableRawPointer) {
        withUnsafeBytes { UnsafeMutableRawBufferPointer(start: target, count: $0.count).copyMemory(from: $0) }
    }
}

extension Seen {
    /// The contents of a file through the page cache or past it.
    static let direct = clinux_past_cache

    /// Memory that O_DIRECT takes, holding `bytes`; the caller frees it.
    static func aligned(_ bytes: [UInt8]) throws -> UnsafeMutableRawPointer {
        var space: UnsafeMutableRawPointer?
        guard posix_memalign(&space, 4096, max(4096, bytes.count)) == 0, let space else { throw HostFailure("memory") }
        bytes.copy(to: space)
        return space
    }
}
