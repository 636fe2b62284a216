internal import Glibc
internal import TestSupport

/// The program under test, as it was built.
enum Product {
    /// Its path: PLATTER_BINARY, or the debug build beside these tests.
    static let path: String = {
        if let path = getenv("PLATTER_BINARY") { return String(cString: path) }
        return SharedImages.packageRoot + "/.build/debug/platter"
    }()

    /// Runs it to its end.
    static func run(_ arguments: String..., environment: [String: String] = [:]) throws -> CommandResult {
        try ChildProcess(path, arguments, environment: environment).wait(timeout: 30)
    }
}

/// Whether mounts can be tested here. With PLATTER_REQUIRE_FUSE=1 the tests run regardless, and fail where they cannot.
enum FUSE {
    static let skipReason = "/dev/fuse cannot be opened here (PLATTER_REQUIRE_FUSE=1 makes that an error)"

    static let isRequired = getenv("PLATTER_REQUIRE_FUSE").map { String(cString: $0) } == "1"

    static let isThere: Bool = {
        let descriptor = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        if descriptor >= 0 { close(descriptor) }
        return descriptor >= 0 || isRequired
    }()

    static let isThereForRoot = isThere && (geteuid() == 0 || isRequired)

    /// The line of mountinfo for a mountpoint, or nil.
    static func mountinfo(_ mountpoint: String) throws -> String? {
        try HostFiles.text("/proc/self/mountinfo").split(separator: "\n").map(String.init)
            .last { $0.contains(" \(mountpoint) ") }
    }
}

/// An image and a mountpoint of one test; whatever is still mounted at the end is detached.
final class Playground: Sendable {
    let directory: TemporaryDirectory
    /// A raw image of 1 MiB with known bytes.
    let image: String
    let content: [UInt8]
    /// An empty directory.
    let mountpoint: String

    init() throws {
        directory = try TemporaryDirectory("command")
        var random = SeededRandom(seed: 7)
        content = random.bytes(1 << 20)
        image = try directory.write(content, to: "disk.raw")
        mountpoint = directory.file("mnt")
        mkdir(mountpoint, 0o755)
    }

    deinit {
        for _ in 0..<4 where (try? FUSE.mountinfo(mountpoint)) ?? nil != nil {
            _ = try? TestSupport.run("umount", "-l", mountpoint)
        }
    }

    /// Where the disk shows.
    var disk: String { mountpoint + "/disk.raw" }

    /// Waits for `condition`, at most ten seconds.
    func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
        for _ in 0..<1000 {
            if try condition() { return true }
            usleep(10_000)
        }
        return false
    }
}
