internal import Bytes
internal import CLinux
internal import Disk
internal import Glibc
internal import Logging
internal import Storage
internal import Testing

/// A directory for one test, with what is in it removed at the end.
final class Scratch: Sendable {
    let path: String

    init() throws {
        var template = Array("/tmp/platter-disk-XXXXXX".utf8CString)
        path = try #require(mkdtemp(&template).map { String(cString: $0) })
    }

    deinit { Scratch.remove(path) }

    /// Writes a file and returns its path.
    @discardableResult
    func write(_ name: String, _ bytes: [UInt8]) throws -> String {
        let file = "\(path)/\(name)"
        let descriptor = Glibc.creat(file, 0o644)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + done, bytes.count - done) }
            try #require(count > 0)
            done += count
        }
        return file
    }

    func makeDirectory(_ name: String) throws { try #require(mkdir("\(path)/\(name)", 0o755) == 0) }

    func link(_ name: String, to target: String) throws { try #require(symlink(target, "\(path)/\(name)") == 0) }

    private static func remove(_ path: String) {
        guard let directory = opendir(path) else { return }
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard name != ".", name != ".." else { continue }
            let file = "\(path)/\(name)"
            if unlink(file) != 0 { remove(file) }
        }
        closedir(directory)
        rmdir(path)
    }
}

extension DiskOptions {
    /// Options whose log goes nowhere.
    static var quiet: DiskOptions { DiskOptions(log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }) }
}

extension Disk {
    /// The bytes of `range`, for comparing.
    func content(_ range: ByteRange) throws -> [UInt8] {
        var result = [UInt8](repeating: 0xA5, count: Int(range.length))
        try result.withUnsafeMutableBytes { try read(range, into: $0) }
        return result
    }

    /// All of the disk.
    func content() throws -> [UInt8] { try content(ByteRange(0, to: size)) }
}

/// A pipe and what came out of it.
final class Pipe {
    private var ends: [Int32] = [-1, -1]
    let pages: Int

    init(bytes: Int32 = 1 << 20) throws {
        let capacity = clinux_make_pipe(&ends, bytes)
        try #require(capacity > 0)
        pages = Int(capacity) / 4096
    }

    deinit { for end in ends { close(end) } }

    var writer: PipeWriter { PipeWriter(descriptor: ends[1]) }

    /// Everything in the pipe now.
    func drain() throws -> [UInt8] {
        var waiting: Int32 = 0
        try #require(ioctl(ends[0], UInt(FIONREAD), &waiting) == 0)
        var result = [UInt8](repeating: 0, count: Int(waiting))
        var done = 0
        while done < result.count {
            let count = result.withUnsafeMutableBytes { Glibc.read(ends[0], $0.baseAddress! + done, $0.count - done) }
            try #require(count > 0)
            done += count
        }
        return result
    }
}
