internal import Formats
internal import TestSupport

/// A sort of image that is tortured.
struct Subject: Sendable {
    /// The format by its name: states are counted by it.
    var format: String
    /// How many operations a session has.
    var operations = 40
    /// The largest operation in bytes.
    var largest = 4 << 20
    /// The unit of space that is given up and used again much, in bytes, or 0.
    var unit = 0
    /// Makes the image.
    var make: @Sendable () throws -> DiskFixture

    init(
        _ format: String, operations: Int = 40, largest: Int = 4 << 20, unit: Int = 0,
        _ make: @escaping @Sendable () throws -> DiskFixture
    ) {
        self.format = format
        self.operations = operations
        self.largest = largest
        self.unit = unit
        self.make = make
    }

    /// An image that platter made, empty, or in use.
    init(
        _ format: any ImageFormat.Type, _ size: UInt64, _ options: [String: String] = [:], isUsed: Bool = false,
        operations: Int = 40, largest: Int = 4 << 20, unit: Int = 0
    ) {
        self.init(format.name, operations: operations, largest: largest, unit: unit) {
            let empty = try DiskFixture.created(format, size: size, options: options)
            return isUsed ? try empty.written(seed: 21) : empty
        }
    }

    /// Small disks: what matters is how many states are seen, and that units of every sort are crossed.
    static let all: [Subject] = raw + vhd + vhdx + qcow2

    private static let raw = [Subject(Raw.self, 2 << 20, isUsed: true), Subject(Raw.self, 777_777, isUsed: true)]

    // Those with a unit give up space and take it again all the time. They exist to find space that is used again before its
    // drop is durable: in random ranges blocks are rarely given up whole, and then seldom taken again between two commits.

    private static let vhd = [
        Subject(VHD.self, 2 << 20, ["subformat": "fixed"], isUsed: true),
        Subject(VHD.self, 1 << 20, ["block_size": "8K"]),
        Subject(VHD.self, 4 << 20, ["block_size": "512K"], isUsed: true),
        Subject(VHD.self, 5 << 20),
        Subject("vhd") { try .child(VHD.self, of: VHD.self, size: 2 << 20, options: ["block_size": "64K"]) },
        Subject("vhd") { try .child(VHD.self, of: VHD.self, size: 4 << 20) },
        Subject(
            VHD.self, 128 << 10, ["block_size": "8K"], isUsed: true, operations: 60, largest: 16 << 10, unit: 8 << 10),
    ]

    private static let vhdx = [
        Subject(VHDX.self, 8 << 20, ["block_size": "1M", "log_size": "1M"]),
        Subject(VHDX.self, 6 << 20, ["block_size": "2M", "log_size": "1M"], isUsed: true),
        Subject(VHDX.self, 4 << 20, ["subformat": "fixed", "log_size": "1M"]),
        Subject(
            VHDX.self, 8 << 20, ["block_size": "1M", "logical_sector_size": "4096", "log_size": "1M"], isUsed: true),
        Subject("vhdx") {
            try .child(VHDX.self, of: VHDX.self, size: 4 << 20, options: ["block_size": "1M", "log_size": "1M"])
        },
        // So many batches that the log begins anew a few times.
        Subject(VHDX.self, 8 << 20, ["block_size": "1M", "log_size": "1M"], operations: 1500, largest: 16 << 10),
        Subject(
            VHDX.self, 6 << 20, ["block_size": "1M", "log_size": "1M"], isUsed: true, operations: 60, largest: 64 << 10,
            unit: 1 << 20),
        Subject("vhdx", operations: 60, largest: 64 << 10, unit: 1 << 20) {
            try .child(VHDX.self, of: VHDX.self, size: 5 << 20, options: ["block_size": "1M", "log_size": "1M"])
        },
    ]

    private static let qcow2 = [
        Subject(QCOW2.self, 4 << 20),
        Subject(QCOW2.self, 2 << 20, ["cluster_size": "4k"], isUsed: true),
        Subject(QCOW2.self, 512 << 10, ["cluster_size": "512", "compat": "0.10"], isUsed: true),
        Subject(QCOW2.self, 4 << 20, ["compat": "0.10"]),
        Subject(QCOW2.self, 2 << 20, ["cluster_size": "4k", "refcount_bits": "1"]),
        Subject(QCOW2.self, 3 << 20, ["cluster_size": "512", "refcount_bits": "64"]),
        Subject(QCOW2.self, 4 << 20, ["extended_l2": "on"], isUsed: true),
        Subject(QCOW2.self, 2 << 20, ["extended_l2": "on", "cluster_size": "16k"]),
        Subject("qcow2") {
            try DiskFixture.created(
                QCOW2.self, size: 2 << 20, options: ["lazy_refcounts": "on", "cluster_size": "8k"]
            ).allowingLazyRefcounts()
        },
        Subject("qcow2") { try .child(QCOW2.self, of: Raw.self, size: 2 << 20, options: ["cluster_size": "16k"]) },
        Subject("qcow2") {
            try .child(
                QCOW2.self, of: QCOW2.self, size: 4 << 20, belowSize: (2 << 20) + 512, options: ["extended_l2": "on"])
        },
        Subject("qcow2") { try .withDataFile(QCOW2.self, size: 2 << 20, options: ["cluster_size": "4k"]) },
        Subject("qcow2") {
            try .withDataFile(QCOW2.self, size: 2 << 20, options: ["cluster_size": "4k", "data_file_raw": "on"])
        },
    ]

    /// Those that QEMU makes a part of.
    static let fromQEMU = [
        Subject("qcow2") { try .withSnapshot(size: 1 << 20, options: ["cluster_size": "4k"]) },
        Subject("qcow2") { try .withSnapshot(size: 512 << 10, options: ["cluster_size": "512", "compat": "0.10"]) },
        Subject("qcow2") { try .withSnapshot(size: 2 << 20, options: ["extended_l2": "on", "cluster_size": "16k"]) },
        Subject("qcow2") { try .compressed(size: 1 << 20, options: ["cluster_size": "4k"]) },
    ]
}
