import Bytes
import Disk
import Formats
import Glibc
import Storage
import TestSupport
import Testing

/// Differencing chains that platter makes and writes, as vhdimount (Debian: libvhdi-utils) shows them.
///
/// QEMU reads no chain of VHD or VHDX, so libvhdi is the only other program here that does. Its version 20210425 opens both
/// formats, with the parents beside the child. It is wrong about two things, which are left out of the comparison:
///
/// - VHD: of the eight sectors of one byte of a block's bitmap, those that are absent and follow a present one are taken
///   for present: what the child's block holds there, zeros, is shown and not the parent's bytes.
/// - VHDX: a block of the child whose state is ZERO shows the parent's bytes and not zeros.
///
/// And in a VHD whose blocks are smaller than 128 KiB it misses whole pieces of the child, so that there are none here.
/// Everything else has to be right, in chains of three.
@Suite(.enabled(if: Vhdimount.isUsable, Vhdimount.skipReason))
struct ChainOracleTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("chain") }

    /// Makes the next image of a chain and writes a seeded workload into it: parts of blocks, whole blocks, zeroes of both and
    /// flushes. Returns what the disk must read as.
    private func add(
        _ name: String, _ format: any ImageFormat.Type, _ options: [String: String], size: UInt64, on parent: String?,
        seed: UInt64
    ) throws -> SparseBytes {
        let path = directory.file(name)
        let below = parent.map {
            NewImage.Parent(path: directory.file($0), options: .silent(isWritable: false))
        }
        _ = try NewImage(path: path, format: format, size: size, options: options, parent: below).make()
        var content = try Disk.open(path: path, options: .silent(isWritable: false)).contents()
        let disk = try Disk.open(path: path, options: .silent(isWritable: true))
        // The workload's own record of events is not used: these are real files.
        let machine = PowerCutMachine([])
        if parent == nil {
            // Every sector has bytes that zeros are not taken for.
            var random = SeededRandom(seed: seed)
            let bytes = random.bytes(Int(size))
            try bytes.withUnsafeBytes { try disk.write(ByteRange(0, to: size), from: $0) }
            content = SparseBytes(bytes)
        }
        // A child has less than what is below it, so that all layers show.
        var workload = DiskWorkload(ModelDisk(content), seed: seed)
        workload.unit = Int(disk.layers[0].shape.allocationUnit)
        try workload.run(parent == nil ? 8 : 16, on: disk, machine, largest: 60_000)
        try workload.finish(disk, machine)
        content = workload.model.latest
        return content
    }

    @Test(
        arguments: [
            ("vhd", ["block_size": "512K"], 3 << 20), ("vhd", [:], 7 << 20 | 7 << 9),
            ("vhdx", ["block_size": "1M"], 6 << 20), ("vhdx", ["block_size": "2M"], 7 << 20 | 7 << 9),
        ] as [(String, [String: String], UInt64)], [1, 2] as [UInt64])
    func vhdimountReadsAChain(_ kind: (name: String, options: [String: String], size: UInt64), seed: UInt64) throws {
        let format: any ImageFormat.Type = kind.name == "vhd" ? VHD.self : VHDX.self
        let names = ["base", "middle", "child"].map { "\($0).\(kind.name)" }
        var expected = SparseBytes()
        for (index, name) in names.enumerated() {
            expected = try add(
                name, format, kind.options, size: kind.size, on: index == 0 ? nil : names[index - 1],
                seed: seed &* 100 &+ UInt64(index))
        }
        let path = directory.file(names[2])
        let ours = try Disk.open(path: path, options: .silent(isWritable: false)).contents()
        #expect(ours.firstDifference(from: expected) == nil, "a fresh open reads otherwise")
        let theirs = try Vhdimount.content(of: path, layers: names.count, in: directory)
        #expect(theirs.count == expected.size)
        let layers = try Layers(TestChain.open(path), isVHD: kind.name == "vhd")
        try layers.compare(SparseBytes(theirs), expected)
    }
}

/// Which layer of a chain holds each sector.
private struct Layers {
    private enum Holding { case absent, data, zero }

    private let holdings: [[Holding]]
    private let isVHD: Bool

    init(_ top: DriverReader, isVHD: Bool) throws {
        self.isVHD = isVHD
        var holdings: [[Holding]] = []
        var next: DriverReader? = top
        while let layer = next {
            holdings.append(try Self.holdings(of: layer))
            next = layer.parent
        }
        self.holdings = holdings
    }

    private static func holdings(of layer: DriverReader) throws -> [Holding] {
        var result: [Holding] = []
        var rest = ByteRange(0, to: layer.size)
        while !rest.isEmpty {
            var runs = ExtentList(for: rest)
            try layer.driver.map(.placement, into: &runs)
            try ContractViolation.check(runs.covered > 0, "map covered nothing")
            for index in 0..<runs.count {
                let holding: Holding =
                    switch runs[index].place {
                    case .hole: .absent
                    case .zero: .zero
                    default: .data
                    }
                result += [Holding](repeating: holding, count: Int(runs[index].length / 512))
            }
            rest = rest.dropping(first: runs.covered)
        }
        return result
    }

    /// Whether libvhdi is known to be wrong about a sector.
    private func isExcused(_ sector: Int) -> Bool {
        for layer in holdings.dropLast() {
            switch layer[sector] {
            case .data: return false
            case .zero: return !isVHD
            case .absent where isVHD:
                if layer[(sector / 8 * 8)..<sector].contains(.data) { return true }
            case .absent: break
            }
        }
        return false
    }

    private func around(_ sector: Int) -> [String] {
        holdings.map { layer in
            layer[(sector / 8 * 8)..<min(layer.count, sector / 8 * 8 + 8)].map { "\($0)" }.joined(separator: " ")
        }
    }

    /// Throws for the first sector that differs and is not excused, and where too little was compared to say anything.
    func compare(_ theirs: SparseBytes, _ expected: SparseBytes) throws {
        var compared = [Int](repeating: 0, count: holdings.count)
        for sector in holdings[0].indices where !isExcused(sector) {
            let wanted = expected.bytes(at: sector * 512, count: 512)
            try ContractViolation.check(
                theirs.bytes(at: sector * 512, count: 512) == wanted,
                "vhdimount reads sector \(sector) otherwise; the layers hold of it and its neighbours \(around(sector))"
            )
            if let layer = holdings.firstIndex(where: { $0[sector] == .data }) { compared[layer] += 1 }
        }
        try ContractViolation.check(
            compared.allSatisfy { $0 > 50 }, "of the layers only \(compared) sectors were compared")
    }
}

/// The program, and one use of it.
private enum Vhdimount {
    static let isUsable = Tool.has("vhdimount") && unmounter != nil && access("/dev/fuse", R_OK | W_OK) == 0
    static let skipReason: Comment = "needs vhdimount (Debian: libvhdi-utils), fusermount and /dev/fuse"

    private static let unmounter = ["fusermount", "fusermount3"].first { Tool.has($0) }

    /// What it shows of the image at `path`, the topmost of so many.
    static func content(of path: String, layers: Int, in directory: TemporaryDirectory) throws -> [UInt8] {
        let point = directory.file("point")
        guard mkdir(point, 0o755) == 0 else { throw HostFailure("cannot make \(point)") }
        try Oracle.run("vhdimount", [path, point])
        defer { _ = try? Oracle.run(unmounter ?? "fusermount", ["-u", point]) }
        // It shows each image of the chain as a file, the lowest first.
        let shown = try HostFiles.list(point).sorted()
        try ContractViolation.check(shown == (1...layers).map { "vhdi\($0)" }, "vhdimount shows \(shown)")
        return try HostFiles.read("\(point)/vhdi\(layers)")
    }
}
