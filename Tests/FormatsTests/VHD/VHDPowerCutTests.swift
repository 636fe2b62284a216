import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Power lost at every moment, and errors at every operation.
struct VHDPowerCutTests {
    private static let size: UInt64 = 120_320

    /// A child of `size` bytes on a parent that has content.
    private static func child(size: UInt64, block: String) throws -> DiskFixture {
        let base = try Asking.create(size: size, ["block_size": "64K"])
        var writer = try VHDWriter(base)
        var random = SeededRandom(seed: 3)
        for _ in 0..<4 {
            try writer.write(random.bytes(30_000), at: UInt64.random(in: 0..<(size - 30_000), using: &random))
        }
        try writer.finish()
        let parent = CreateRequest.Parent(
            absolutePath: "/base.vhd", recordedPath: "base.vhd", shape: try Asking.open(base.bytes).shape, modified: 0)
        let content = try DiskFixture.image(VHD.self, size: size, options: ["block_size": block], parent: parent)
        return DiskFixture(
            name: "differencing vhd \(block)", images: [(VHD.self, content), (VHD.self, SparseBytes(base.bytes))])
    }

    @Test(arguments: [("8K", 300_544, 30_000), ("512K", (3 << 20) + 512, 1 << 20), ("2M", 5 << 20, 4 << 20)])
    func dynamicImageSurvivesPowerLossAtAnyTime(block: String, size: Int, largest: Int) throws {
        let fixture = try DiskFixture.created(VHD.self, size: UInt64(size), options: ["block_size": block])
        let counts = try PowerCutCampaign(fixture, seed: 1, states: 80, largest: largest).run()
        #expect(counts.states >= 80)
    }

    @Test(arguments: [("8K", 300_544, 30_000), ("512K", (3 << 20) + 512, 1 << 20)])
    func childSurvivesPowerLossAtAnyTime(block: String, size: Int, largest: Int) throws {
        let fixture = try Self.child(size: UInt64(size), block: block)
        let counts = try PowerCutCampaign(fixture, seed: 2, states: 80, largest: largest).run()
        #expect(counts.states >= 80)
    }

    @Test func imageOnAHostWithoutHolesSurvivesPowerLossAtAnyTime() throws {
        var campaign = PowerCutCampaign(
            try DiskFixture.created(VHD.self, size: 300_544, options: ["block_size": "8K"]), seed: 3, states: 80,
            largest: 30_000)
        campaign.canPunch = false
        try campaign.run()
    }

    @Test func fixedImageSurvivesPowerLossAtAnyTime() throws {
        let fixture = try DiskFixture.created(VHD.self, size: 300_544, options: ["subformat": "fixed"])
        try PowerCutCampaign(fixture, seed: 4, states: 80, largest: 30_000).run()
    }

    /// Blocks are given up whole and others take their places at once. The campaign finds out a disk that hands a place on
    /// before the table that no longer names it is durable.
    @Test func spaceIsUsedAgainOnlyWhenItsDropIsDurable() throws {
        let fixture = try DiskFixture.created(VHD.self, size: 131_072, options: ["block_size": "8K"]).written(seed: 21)
        var campaign = PowerCutCampaign(fixture, seed: 1, states: 80, operations: 60, largest: 16 << 10)
        campaign.unit = 8 << 10
        #expect(try campaign.run().states >= 80)
    }

    @Test(arguments: ["8K", "512K"])
    func whatAKilledSessionLeftIsSafeFromTheNextOne(block: String) throws {
        let fixture = try DiskFixture.created(VHD.self, size: 1 << 20, options: ["block_size": block])
        var campaign = PowerCutCampaign(fixture, seed: 1, states: 80, largest: 64 << 10)
        campaign.kills = true
        #expect(try campaign.run().states >= 80)
    }

    /// Every operation of a short session fails in turn: reads, writes, barriers, with EIO and for want of room.
    @Test func hostMayFailAtEachOperation() throws {
        let fixture = try DiskFixture.created(VHD.self, size: Self.size, options: ["block_size": "8K"]).written(seed: 5)
        #expect(try FaultCampaign.every(fixture, operations: 5, largest: 20_000, unit: 8 << 10).run() > 40)
    }

    /// An error at many operations in turn, and a host that is full: what was acknowledged stays, and nothing is corrupt.
    @Test func hostMayFailAtAnyOperationOnADynamicImage() throws {
        let fixture = try DiskFixture.created(VHD.self, size: Self.size, options: ["block_size": "8K"])
        #expect(try FaultCampaign(fixture, seed: 4, limit: 25, largest: 30_000).run() > 50)
    }

    @Test func hostMayFailAtAnyOperationOnAChild() throws {
        let campaign = FaultCampaign(try Self.child(size: Self.size, block: "8K"), seed: 5, limit: 25, largest: 30_000)
        #expect(try campaign.run() > 50)
    }

    /// Blocks one after the other: each step of the file's growth costs one barrier, and so do few commits. QEMU flushes
    /// for each block.
    @Test func allocatingOneGibibyteCostsFewBarriers() throws {
        let fixture = try DiskFixture.created(VHD.self, size: 1 << 30)
        let blocks: UInt64 = 512
        let flushes = try BarrierCount.ofSequentialAllocation(fixture, step: (1 << 30) / blocks)
        #expect(flushes > 1)
        #expect(flushes <= Int(blocks) / 20, "\(flushes) barriers for \(blocks) blocks")
    }
}
