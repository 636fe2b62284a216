import Disk
import Storage
import TestSupport
import Testing

/// Images made by QEMU, of every kind that it makes, against what QEMU reads from them.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2OracleTests {
    private static let size = Oracle.oddSize

    /// Makes an image, writes into it, and compares content and map.
    private func check(_ options: [String], cluster: UInt64, size: UInt64 = size, seed: UInt64 = 1) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", ["cluster_size=\(cluster)"] + options, size: size)
        try Oracle.scribble(path, "qcow2", size: size, unit: cluster, seed: seed)
        try Oracle.checkContent(path, "qcow2", in: directory)
        try Oracle.checkMap(path, "qcow2")
    }

    @Test(arguments: [512, 1024, 4096, 32_768, 65_536, 1 << 20, 2 << 20] as [UInt64], ["0.10", "1.1"])
    func everyClusterSizeAndVersion(cluster: UInt64, version: String) throws {
        try check(["compat=\(version)"], cluster: cluster, seed: cluster)
    }

    @Test(arguments: [1, 2, 4, 8, 16, 32, 64])
    func everyRefcountWidth(bits: Int) throws {
        try check(["refcount_bits=\(bits)", "lazy_refcounts=on"], cluster: 4096, seed: UInt64(bits))
    }

    @Test(arguments: ["off", "metadata", "falloc", "full"], ["off", "on"])
    func everyPreallocation(mode: String, subclusters: String) throws {
        try check(["preallocation=\(mode)", "extended_l2=\(subclusters)"], cluster: 65_536)
    }

    @Test(arguments: [16_384, 65_536, 2 << 20] as [UInt64], 1...3 as ClosedRange<UInt64>)
    func subclusters(cluster: UInt64, seed: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", ["cluster_size=\(cluster)", "extended_l2=on"], size: Self.size)
        try Oracle.scribble(path, "qcow2", size: Self.size, unit: cluster, seed: seed)
        try Oracle.checkContent(path, "qcow2", in: directory)
        try Oracle.checkDriver(path, "qcow2", in: directory)
        try Oracle.checkMap(path, "qcow2")
    }

    @Test(arguments: [1, 2, 511, 512, 513, 8191] as [UInt64])
    func smallAndOddSizes(sectors: UInt64) throws {
        try check([], cluster: 4096, size: sectors * 512, seed: sectors)
    }

    @Test(arguments: ["off", "on"], ["off", "metadata"])
    func dataFiles(isRaw: String, preallocation: String) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.qcow2")
        let data = directory.file("data.bin")
        try Oracle.create(
            path, "qcow2", ["data_file=\(data)", "data_file_raw=\(isRaw)", "preallocation=\(preallocation)"],
            size: Self.size)
        try Oracle.scribble(path, "qcow2", size: Self.size, unit: 65_536, seed: 4)
        try Oracle.checkContent(path, "qcow2", in: directory)
        try Oracle.checkMap(path, "qcow2")
    }

    @Test(
        arguments: [
            (512, "zlib", []), (4096, "zlib", ["compat=0.10"]), (65_536, "zlib", []), (2 << 20, "zlib", []),
            (512, "zstd", []), (4096, "zstd", []), (65_536, "zstd", ["extended_l2=on"]), (2 << 20, "zstd", []),
        ] as [(UInt64, String, [String])])
    func compressedClusters(cluster: UInt64, type: String, options: [String]) throws {
        let directory = try TemporaryDirectory("oracle")
        let (raw, path) = (directory.file("source.raw"), directory.file("image.qcow2"))
        try Oracle.raw(raw, size: Self.size)
        var arguments = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=\(cluster)"]
        if type != "zlib" { arguments += ["-o", "compression_type=\(type)"] }
        for option in options { arguments += ["-o", option] }
        try Oracle.run("qemu-img", arguments + [raw, path])
        try Oracle.checkContent(path, "qcow2", in: directory)
        try Oracle.checkMap(path, "qcow2")
        // Again with plain clusters, zeros and holes between the compressed ones.
        try Oracle.scribble(path, "qcow2", size: Self.size, unit: cluster, seed: cluster + 5)
        try Oracle.checkContent(path, "qcow2", in: directory)
        try Oracle.checkDriver(path, "qcow2", in: directory)
        try Oracle.checkMap(path, "qcow2")
    }

    @Test(arguments: 1...10)
    func chains(depth: Int) throws {
        let directory = try TemporaryDirectory("oracle")
        let formats = ["raw", "qcow2", "vpc", "vhdx", "qcow2"]
        var base = (path: directory.file("base.img"), format: formats[depth % formats.count])
        try Oracle.create(
            base.path, base.format, base.format == "vpc" ? ["force_size=on"] : [], size: Self.size)
        try Oracle.scribble(base.path, base.format, size: Self.size, unit: 65_536, seed: 7)
        for level in 1...depth {
            let path = directory.file("layer\(level).qcow2")
            // Sizes go up and down: what a shorter layer hides stays hidden.
            let size = Self.size - UInt64(level % 4) * 300 * 512 + UInt64(level % 3) * 1000 * 512
            let cluster: UInt64 = [512, 4096, 65_536][level % 3]
            try Oracle.create(path, "qcow2", ["cluster_size=\(cluster)"], size: size, base: base)
            try Oracle.scribble(path, "qcow2", size: size, unit: cluster, seed: UInt64(level + depth))
            base = (path, "qcow2")
        }
        try Oracle.checkContent(base.path, "qcow2", in: directory)
        // Of a VHDX below, qemu-img says that all of it is data.
        if depth % formats.count != 3 { try Oracle.checkMap(base.path, "qcow2") }
    }

    @Test(arguments: ["0.10", "1.1"])
    func snapshotsAndResizedDisks(version: String) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.qcow2")
        var size: UInt64 = Self.size
        var sizes: [UInt64] = []
        try Oracle.create(path, "qcow2", ["compat=\(version)", "cluster_size=4096"], size: size)
        for round in 0..<4 as Range<UInt64> {
            try Oracle.scribble(path, "qcow2", size: size, unit: 4096, seed: 60 + round)
            try Oracle.run("qemu-img", ["snapshot", "-c", "round\(round)", path])
            sizes.append(size)
            // QEMU refuses to resize a version 2 image that has snapshots.
            guard version == "1.1", round < 3 else { continue }
            size = round == 1 ? size - 2_000 * 512 : size + 3_333 * 512
            try Oracle.run("qemu-img", ["resize", "-q", "--shrink", "-f", "qcow2", path, "\(size)"])
        }
        try Oracle.scribble(path, "qcow2", size: size, unit: 4096, seed: 70)
        try Oracle.checkContent(path, "qcow2", in: directory)
        try Oracle.checkMap(path, "qcow2")
        for round in 0..<4 { try Oracle.checkSnapshot("round\(round)", size: sizes[round], of: path, in: directory) }
    }
}
