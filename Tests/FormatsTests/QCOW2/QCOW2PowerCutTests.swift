import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// Power that fails at every point of random workloads, on images that QEMU made and wrote to: what is left opens without
/// help, shows no corruption, and every sector holds what was last made durable or something written later. QEMU is asked
/// about a sample of the states.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2PowerCutTests {
    private static let size: UInt64 = 900_000 / 512 * 512

    /// A fixture of the image at `path`; `below` is its backing file and `data` its data file.
    static func fixture(
        _ name: String, _ path: String, below: String? = nil, data: String? = nil
    ) throws -> DiskFixture {
        guard below != nil || data != nil else { return try .qcow2(name, at: path) }
        let images: [(format: any ImageFormat.Type, content: SparseBytes)] = try ([path] + (below.map { [$0] } ?? []))
            .map { (QCOW2.self, SparseBytes(try HostFiles.read($0))) }
        let extra = try data.map {
            [DiskFixture.File(name: "data.bin", content: SparseBytes(try HostFiles.read($0)))]
        }
        return DiskFixture(name: name, images: images, extra: extra ?? [])
    }

    private static func make(
        _ path: String, _ options: [String], size: UInt64, seed: UInt64, snapshot: Bool = false
    ) throws {
        try Oracle.create(path, "qcow2", options, size: size)
        try Oracle.scribble(path, "qcow2", size: size, unit: 4096, seed: seed)
        guard snapshot else { return }
        try Oracle.run("qemu-img", ["snapshot", "-c", "kept", path])
        try Oracle.scribble(path, "qcow2", size: size / 2, unit: 4096, seed: seed + 1)
    }

    private static func campaign(
        _ options: [String], seed: UInt64, states: Int = 30, size: UInt64 = size, snapshot: Bool = false
    ) throws {
        let directory = try TemporaryDirectory("cut")
        let path = directory.file("image.qcow2")
        try make(path, options, size: size, seed: seed, snapshot: snapshot)
        let fixture = try fixture("qcow2 \(options)", path)
        let counts = try PowerCutCampaign(fixture, seed: seed, states: states, largest: 300_000).run()
        #expect(counts.states >= states)
    }

    @Test(arguments: [512, 4096, 65_536], ["0.10", "1.1"])
    func clusterSizesAndVersions(cluster: Int, version: String) throws {
        try Self.campaign(["cluster_size=\(cluster)", "compat=\(version)"], seed: UInt64(cluster))
    }

    @Test(arguments: [512, 65_536], ["0.10", "1.1"])
    func snapshots(cluster: Int, version: String) throws {
        try Self.campaign(["cluster_size=\(cluster)", "compat=\(version)"], seed: 21, snapshot: true)
    }

    @Test(arguments: [1, 4, 64])
    func refcountWidths(bits: Int) throws {
        try Self.campaign(["cluster_size=512", "refcount_bits=\(bits)"], seed: UInt64(bits))
    }

    /// 512-byte clusters with counts of 64 bits: a table of one cluster reaches over 2 MiB only.
    @Test func growthOfTheRefcountTable() throws {
        let directory = try TemporaryDirectory("cut")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", ["cluster_size=512", "refcount_bits=64"], size: 8 << 20)
        try Oracle.run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 0 1900k", path])
        let fixture = try Self.fixture("growth", path)
        try PowerCutCampaign(fixture, seed: 4, states: 30, operations: 20, largest: 1 << 20).run()
    }

    @Test(arguments: [false, true])
    func subclusters(snapshot: Bool) throws {
        try Self.campaign(["extended_l2=on", "cluster_size=16384"], seed: 31, snapshot: snapshot)
    }

    @Test func compressedContent() throws {
        let directory = try TemporaryDirectory("cut")
        let raw = directory.file("base.raw")
        let path = directory.file("image.qcow2")
        try Oracle.raw(raw, size: Self.size)
        try Oracle.run(
            "qemu-img", ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4096", raw, path])
        try PowerCutCampaign(Self.fixture("compressed", path), seed: 5, states: 30, largest: 300_000).run()
    }

    @Test(arguments: ["off", "on"])
    func dataFiles(isRaw: String) throws {
        let directory = try TemporaryDirectory("cut")
        let path = directory.file("image.qcow2")
        let data = directory.file("data.bin")
        try Self.make(
            path, ["cluster_size=4096", "data_file=\(data)", "data_file_raw=\(isRaw)"], size: Self.size, seed: 1)
        let fixture = try Self.fixture("data file, raw \(isRaw)", path, data: data)
        try PowerCutCampaign(fixture, seed: 6, states: 30, largest: 300_000).run()
    }

    /// A chain: what the child does not have comes from below, whatever happens to the child.
    @Test(arguments: [["compat=0.10"], ["compat=1.1"], ["extended_l2=on", "cluster_size=16384"]])
    func children(options: [String]) throws {
        let directory = try TemporaryDirectory("cut")
        let base = directory.file("base.qcow2")
        let path = directory.file("image.qcow2")
        try Self.make(base, [], size: Self.size - 40_960, seed: 2)
        try Oracle.create(path, "qcow2", ["cluster_size=16384"] + options, size: Self.size, base: (base, "qcow2"))
        let fixture = try Self.fixture("child \(options)", path, below: base)
        try PowerCutCampaign(fixture, seed: 7, states: 30, largest: 300_000).run()
    }

    @Test(arguments: [512, 65_536])
    func aSessionAfterAKilledOne(cluster: Int) throws {
        let fixture = try DiskFixture.created(
            QCOW2.self, size: Self.size, options: ["cluster_size": "\(cluster)"]
        ).written(seed: 3)
        var campaign = PowerCutCampaign(fixture, seed: 1, states: 60, largest: 100_000)
        campaign.kills = true
        #expect(try campaign.run().states >= 60)
    }

    /// Every operation of a short session fails in turn: reads, writes, barriers, with EIO and for want of room.
    @Test(arguments: [["cluster_size": "512", "compat": "0.10"], ["extended_l2": "on"]])
    func aHostThatFailsAtEachOperation(options: [String: String]) throws {
        let fixture = try DiskFixture.created(QCOW2.self, size: 256 << 10, options: options).written(seed: 5)
        #expect(try FaultCampaign.every(fixture, operations: 3, largest: 20_000).run() > 40)
    }

    /// Lazy refcounts: until the clean close the dirty bit says that refcounts may be wrong, and a writable open makes
    /// them right.
    @Test func lazyRefcounts() throws {
        let directory = try TemporaryDirectory("cut")
        let path = directory.file("image.qcow2")
        try Self.make(path, ["cluster_size=4096", "lazy_refcounts=on"], size: Self.size, seed: 3)
        let fixture = try Self.fixture("lazy", path).allowingLazyRefcounts()
        try PowerCutCampaign(fixture, seed: 8, states: 30, largest: 300_000).run()
    }
}
