import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// QEMU's own programs as the judge: they make images, say what is in them, and where.
enum Oracle {
    static let isPresent = Tool.has("qemu-img", "qemu-io")
    static let skipReason: Comment = "qemu-img and qemu-io are not installed"

    /// A size that is a multiple of nothing but the sector.
    static let oddSize: UInt64 = 5 << 20 | 7 << 9

    /// Runs a program that has to succeed.
    @discardableResult
    static func run(_ tool: String, _ arguments: [String]) throws -> String {
        let result = try ChildProcess(tool, arguments).wait(timeout: 120)
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
        return result.text
    }

    /// Makes an image; `base` names the file below and its format.
    static func create(
        _ path: String, _ format: String, _ options: [String] = [], size: UInt64?,
        base: (path: String, format: String)? = nil
    ) throws {
        var arguments = ["create", "-q", "-f", format]
        for option in options { arguments += ["-o", option] }
        if let base { arguments += ["-b", base.path, "-F", base.format] }
        try run("qemu-img", arguments + [path] + (size.map { ["\($0)"] } ?? []))
    }

    /// Writes, zeroes and discards parts of the image that `seed` chooses: on units, on sectors, over borders.
    static func scribble(_ path: String, _ format: String, size: UInt64, unit: UInt64, seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var arguments = ["-d", "unmap", "-f", format]
        for round in 0..<24 {
            let grain: UInt64 = round % 3 == 0 ? unit : 512
            let start = UInt64.random(in: 0..<size, using: &random) / grain * grain
            let longest = max(unit + unit / 2, 64 << 10)
            let length = min(size - start, (UInt64.random(in: 0..<longest, using: &random) / grain + 1) * grain)
            let what = ["write -q -P \(round + 1)", "write -q -P \(round + 1)", "write -q -z", "discard -q"]
            arguments += ["-c", "\(what[Int(random.next() % 7) % 4]) \(start) \(length)"]
        }
        try run("qemu-io", arguments + [path])
    }

    /// Content that compresses well, not at all, and to nothing: written once for every image that is made from it.
    static func raw(_ path: String, size: UInt64) throws {
        var random = SeededRandom(seed: 99)
        let noise = random.bytes(48 << 10)
        var content: [UInt8] = []
        while content.count < Int(size) {
            switch random.next() % 4 {
            case 0: content += [UInt8](repeating: 0, count: 200 << 10)
            case 1: content += [UInt8](repeating: UInt8(truncatingIfNeeded: random.next()), count: 70_000)
            default: content += noise
            }
        }
        try HostFiles.write(Array(content[..<Int(size)]), to: path)
    }

    // MARK: - Judging

    /// Opens the image as users do and compares all of its bytes with what `qemu-img convert` makes of it, and its size.
    static func checkContent(_ path: String, _ format: String, in directory: TemporaryDirectory) throws {
        let expected = try convert(path, format, [], in: directory)
        let disk = try Disk.open(path: path, options: DiskOptions())
        try ContractViolation.check(disk.size == expected.size, "\(disk.size) bytes, not \(expected.size)")
        try compare(disk, expected)
    }

    /// The same for a snapshot of `size` bytes. QEMU shows it as large as the active disk is now, so that only what both
    /// have is compared.
    static func checkSnapshot(_ name: String, size: UInt64, of path: String, in directory: TemporaryDirectory) throws {
        let expected = try convert(path, "qcow2", ["-l", "snapshot.name=\(name)"], in: directory)
        let image = try Disk.open(path: path, options: DiskOptions())
        let disk = try #require(image.snapshots().first { $0.info.name == name }).open()
        try ContractViolation.check(disk.size == size, "\(disk.size) bytes, not \(size)")
        try compare(disk, expected)
    }

    /// Checks the contract of the image's driver, and its content byte by byte in pieces of all sizes.
    static func checkDriver(_ path: String, _ format: String, in directory: TemporaryDirectory) throws {
        let expected = try convert(path, format, [], in: directory)
        let reader = try TestChain.open(path)
        try checkFormatDriver(reader.driver, parent: reader.parent, expected: ExpectedDisk(raw: expected))
    }

    private static func convert(
        _ path: String, _ format: String, _ choice: [String], in directory: TemporaryDirectory
    ) throws -> FileStorage {
        let raw = directory.file("converted.raw")
        try run("qemu-img", ["convert", "-f", format] + choice + ["-O", "raw", path, raw])
        return try FileStorage(path: raw)
    }

    private static func compare(_ disk: Disk, _ expected: FileStorage) throws {
        let chunk: UInt64 = 1 << 20
        let end = min(disk.size, expected.size)
        var position: UInt64 = 0
        while position < end {
            let range = ByteRange(position, to: min(position + chunk, end))
            var bytes = [UInt8](repeating: 0xA5, count: Int(range.length))
            try bytes.withUnsafeMutableBytes { try disk.read(range, into: $0) }
            let wanted = try expected.bytes(at: HostOffset(position), count: bytes.count)
            if let index = firstDifference(bytes, wanted) {
                throw ContractViolation("byte \(position + UInt64(index)) is \(bytes[index]), not \(wanted[index])")
            }
            position = range.upper
        }
    }

    /// A run as both sides can say it: zeros of any kind are one thing. Of space that is allocated but a hole of the
    /// host, QEMU says that it is data and zeros; both are right then.
    private struct Run {
        var range: ByteRange
        var isData: Bool
        var isZero: Bool
        var depth: Int
        var offset: UInt64?
    }

    /// Compares the disk's map with `qemu-img map`: what is data, in which layer, and where in its file.
    static func checkMap(_ path: String, _ format: String, options: DiskOptions = DiskOptions()) throws {
        let ours = try ownRuns(Disk.open(path: path, options: options))
        let theirs = try qemuRuns(path, format)
        try ContractViolation.check(
            ours.last?.range.upper == theirs.last?.range.upper, "the maps end at different places")
        var index = 0
        for run in ours {
            while index < theirs.count, theirs[index].range.lower < run.range.upper {
                let other = theirs[index]
                let lower = max(run.range.lower, other.range.lower)
                let place = run.offset.map { $0 + lower - run.range.lower }
                let otherPlace = other.offset.map { $0 + lower - other.range.lower }
                let isSame =
                    run.isData
                    ? other.isData && run.depth == other.depth && place == otherPlace : other.isZero
                try ContractViolation.check(isSame, "at \(lower): \(run), but qemu-img says \(other)")
                guard other.range.upper <= run.range.upper else { break }
                index += 1
            }
        }
    }

    private static func ownRuns(_ disk: Disk) throws -> [Run] {
        var runs: [Run] = []
        var position: UInt64 = 0
        while position < disk.size {
            for run in try disk.map(from: position) {
                var known = Run(range: run.range, isData: true, isZero: false, depth: run.layer)
                switch run.place {
                case .data(_, let offset): known.offset = offset
                case .encoded: break
                case .zero, .hole, .missing: (known.isData, known.isZero) = (false, true)
                }
                runs.append(known)
                position = run.range.upper
            }
        }
        return runs
    }

    private static func qemuRuns(_ path: String, _ format: String) throws -> [Run] {
        let text = try run("qemu-img", ["map", "--output=json", "-f", format, path])
        return try #require(try JSON(parsing: text).array).map { run in
            let start = try #require(run["start"]?.uint64)
            let range = ByteRange(start, to: start + (try #require(run["length"]?.uint64)))
            let isData = run["data"]?.bool == true
            return Run(
                range: range, isData: isData, isZero: run["zero"]?.bool == true, depth: try #require(run["depth"]?.int),
                offset: isData ? run["offset"]?.uint64 : nil)
        }
    }
}
