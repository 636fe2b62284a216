import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Random writes and discards through the driver, judged by QEMU: `qemu-img check` finds nothing, not even a leak, and
/// reads what was written.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2WriteOracleTests {
    private static let size = 3 << 20 | 5 << 9

    /// What the disk holds, by QEMU.
    private static func content(_ path: String, snapshot: String? = nil, in directory: TemporaryDirectory) throws
        -> [UInt8]
    {
        let raw = directory.file("content.raw")
        try Oracle.run(
            "qemu-img",
            ["convert", "-f", "qcow2"] + (snapshot.map { ["-l", "snapshot.name=\($0)"] } ?? []) + [
                "-O", "raw", path, raw,
            ])
        return try HostFiles.read(raw)
    }

    /// Runs a workload in two sessions on the image at `path` and lets QEMU judge.
    private static func run(
        _ path: String, cluster: Int, seed: UInt64, steps: Int = 60, in directory: TemporaryDirectory,
        companion: String? = nil
    ) throws {
        var work = QCOW2Workload(try content(path, in: directory), unit: cluster, seed: seed)
        for _ in 0..<2 {
            let opener: any CompanionOpener =
                try companion.map { OneCompanion(storage: try FileStorage(path: $0, isWritable: true)) }
                ?? NoCompanions()
            let parent = companion == nil ? try TestChain.open(path).parent : nil
            let session = try QCOW2Session(
                FileStorage(path: path, isWritable: true), companions: opener, parent: parent)
            for step in 0..<steps {
                try work.step(session, longest: max(cluster * 5 / 2, 200_000))
                if step % 7 == 6 {
                    var inner = work
                    try session.commit { try inner.step(session, longest: cluster * 2) }
                    work = inner
                }
            }
            #expect(try firstDifference(session.read(0, work.content.count), work.content) == nil)
            try session.finish()
            try check(path)
            #expect(firstDifference(try content(path, in: directory), work.content) == nil, "seed \(seed)")
        }
    }

    private static func check(_ path: String) throws {
        let result = try ChildProcess("qemu-img", ["check", "-f", "qcow2", path]).wait(timeout: 120)
        #expect(result.succeeded, "\(result.text)")
    }

    private func check(_ options: [String], cluster: Int, seed: UInt64, scribbled: Bool = true) throws {
        let directory = try TemporaryDirectory("write")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", ["cluster_size=\(cluster)"] + options, size: UInt64(Self.size))
        if scribbled {
            try Oracle.scribble(path, "qcow2", size: UInt64(Self.size), unit: UInt64(cluster), seed: seed)
        }
        try Self.run(path, cluster: cluster, seed: seed, in: directory)
    }

    @Test(arguments: [512, 1024, 4096, 65_536, 2 << 20], ["0.10", "1.1"])
    func everyClusterSizeAndVersion(cluster: Int, version: String) throws {
        try check(["compat=\(version)"], cluster: cluster, seed: UInt64(cluster))
    }

    @Test(arguments: [1, 2, 4, 8, 16, 32, 64])
    func everyRefcountWidth(bits: Int) throws {
        try check(["refcount_bits=\(bits)"], cluster: 4096, seed: UInt64(bits))
    }

    /// Clusters of 512 bytes with counts of 64 bits: a table of one cluster ends at 2 MiB.
    @Test(arguments: [16, 64])
    func growthOfTheRefcountTable(bits: Int) throws {
        let directory = try TemporaryDirectory("write")
        let path = directory.file("image.qcow2")
        let size = 24 << 20
        try Oracle.create(path, "qcow2", ["cluster_size=512", "refcount_bits=\(bits)"], size: UInt64(size))
        let session = try QCOW2Session(path: path)
        var work = QCOW2Workload([UInt8](repeating: 0, count: size), unit: 512, seed: 3)
        for piece in stride(from: 0, to: size, by: 1 << 20) {
            var bytes = [UInt8](repeating: 1, count: 1 << 20)
            for index in stride(from: 0, to: bytes.count, by: 512) {
                bytes[index] = UInt8(truncatingIfNeeded: (index + piece) >> 9)
            }
            work.put(bytes, at: piece)
            try session.write(bytes, at: UInt64(piece))
            if piece >> 20 % 3 == 2 { try session.commit() }
        }
        try session.finish()
        try Self.check(path)
        #expect(firstDifference(try Self.content(path, in: directory), work.content) == nil)
        let header = try HostFiles.read(path).prefix(64)
        #expect(header[59] > 1 || header[58] > 0, "the refcount table has grown")
    }

    @Test(arguments: [16_384, 65_536, 2 << 20], 1...3 as ClosedRange<UInt64>)
    func subclusters(cluster: Int, seed: UInt64) throws {
        try check(["extended_l2=on"], cluster: cluster, seed: seed)
    }

    @Test(arguments: ["metadata", "falloc", "full"], ["off", "on"])
    func everyPreallocation(mode: String, subclusters: String) throws {
        try check(["preallocation=\(mode)", "extended_l2=\(subclusters)"], cluster: 65_536, seed: 8, scribbled: false)
    }

    @Test func lazyRefcounts() throws { try check(["lazy_refcounts=on"], cluster: 4096, seed: 5) }

    @Test(arguments: ["off", "on"], ["off", "metadata"])
    func dataFiles(isRaw: String, preallocation: String) throws {
        for subclusters in ["off", "on"] {
            try Self.dataFile(isRaw: isRaw, preallocation: preallocation, subclusters: subclusters)
        }
    }

    private static func dataFile(isRaw: String, preallocation: String, subclusters: String) throws {
        let directory = try TemporaryDirectory("write")
        let path = directory.file("image.qcow2")
        let data = directory.file("data.bin")
        try Oracle.create(
            path, "qcow2",
            [
                "data_file=\(data)", "data_file_raw=\(isRaw)", "preallocation=\(preallocation)",
                "extended_l2=\(subclusters)",
            ], size: UInt64(Self.size))
        try Oracle.scribble(path, "qcow2", size: UInt64(Self.size), unit: 65_536, seed: 4)
        try Self.run(path, cluster: 65_536, seed: 4, in: directory, companion: data)
        if isRaw == "on" {
            let shown = try Self.content(path, in: directory)
            #expect(firstDifference(Array(try HostFiles.read(data).prefix(shown.count)), shown) == nil)
        }
    }

    @Test(
        arguments: [
            (512, "zlib", []), (4096, "zlib", ["compat=0.10"]), (65_536, "zlib", []), (65_536, "zstd", []),
            (65_536, "zstd", ["extended_l2=on"]), (2 << 20, "zstd", []),
        ] as [(Int, String, [String])])
    func compressedClusters(cluster: Int, type: String, options: [String]) throws {
        let directory = try TemporaryDirectory("write")
        let raw = directory.file("base.raw")
        let path = directory.file("image.qcow2")
        try Oracle.raw(raw, size: UInt64(Self.size))
        var arguments = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=\(cluster)"]
        if type != "zlib" { arguments += ["-o", "compression_type=\(type)"] }
        for option in options { arguments += ["-o", option] }
        try Oracle.run("qemu-img", arguments + [raw, path])
        try Self.run(path, cluster: cluster, seed: 6, in: directory)
    }

    @Test(arguments: [512, 65_536], ["0.10", "1.1"])
    func snapshotsStayIntact(cluster: Int, version: String) throws {
        try Self.snapshots(["cluster_size=\(cluster)", "compat=\(version)"], cluster: cluster)
    }

    @Test func snapshotsStayIntactWithSubclusters() throws {
        try Self.snapshots(["extended_l2=on"], cluster: 65_536)
    }

    private static func snapshots(_ options: [String], cluster: Int) throws {
        let directory = try TemporaryDirectory("write")
        let path = directory.file("image.qcow2")
        let size = UInt64(Self.size)
        try Oracle.create(path, "qcow2", options, size: size)
        var kept: [[UInt8]] = []
        for round in 0..<2 {
            try Oracle.scribble(path, "qcow2", size: size, unit: UInt64(cluster), seed: UInt64(round))
            kept.append(try content(path, in: directory))
            try Oracle.run("qemu-img", ["snapshot", "-c", "s\(round)", path])
        }
        try run(path, cluster: cluster, seed: 11, in: directory)
        for round in 0..<2 {
            let shown = try content(path, snapshot: "s\(round)", in: directory)
            #expect(firstDifference(shown, kept[round]) == nil)
        }
        // Reverting and deleting works on what was left: the counts are those that QEMU expects.
        try Oracle.run("qemu-img", ["snapshot", "-a", "s0", path])
        try check(path)
        #expect(firstDifference(try content(path, in: directory), kept[0]) == nil)
        try Oracle.run("qemu-img", ["snapshot", "-d", "s0", path])
        try run(path, cluster: cluster, seed: 12, in: directory)
        #expect(firstDifference(try content(path, snapshot: "s1", in: directory), kept[1]) == nil)
    }

    @Test(arguments: ["0.10", "1.1"], ["off", "on"])
    func backingChains(version: String, subclusters: String) throws {
        guard version == "1.1" || subclusters == "off" else { return }
        let directory = try TemporaryDirectory("write")
        let base = directory.file("base.qcow2")
        let path = directory.file("image.qcow2")
        // The parent is shorter than its child.
        let below = UInt64(Self.size) - 900_000
        try Oracle.create(base, "qcow2", [], size: below)
        try Oracle.scribble(base, "qcow2", size: below, unit: 65_536, seed: 1)
        try Oracle.create(
            path, "qcow2", ["compat=\(version)", "extended_l2=\(subclusters)"], size: UInt64(Self.size),
            base: (base, "qcow2"))
        try Self.run(path, cluster: 65_536, seed: 9, in: directory)
    }
}
