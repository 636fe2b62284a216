import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// Power lost at any moment and a host that fails at any operation, through the disk as users have it.
@Suite struct VHDXPowerCutTests {
    private static let size: UInt64 = 4 << 20 | 7 << 9

    /// A child on a parent that has content.
    private static func child() throws -> DiskFixture {
        try DiskFixture.child(
            VHDX.self, of: VHDX.self, size: size, options: ["log_size": "1M"], belowOptions: ["log_size": "1M"])
    }

    @Test(arguments: [
        ["block_size": "1M"], ["block_size": "1M", "log_size": "1M", "block_state_zero": "on"],
        ["subformat": "fixed", "block_size": "1M"], ["logical_sector_size": "4096"],
    ])
    func anImageSurvivesPowerLossAtAnyTime(options: [String: String]) throws {
        let size = options["logical_sector_size"] == nil ? Self.size : 4 << 20
        let fixture = try DiskFixture.created(VHDX.self, size: size, options: options)
        #expect(try PowerCutCampaign(fixture, seed: 1, states: 40, largest: 2 << 20).run().states >= 40)
    }

    @Test func aChildSurvivesPowerLossAtAnyTime() throws {
        #expect(try PowerCutCampaign(Self.child(), seed: 2, states: 40, largest: 2 << 20).run().states >= 40)
    }

    /// Blocks are given up whole and others take their places at once. The campaign finds out a disk that hands a place on
    /// before the table that no longer names it is durable.
    @Test func spaceIsUsedAgainOnlyWhenItsDropIsDurable() throws {
        let fixture = try DiskFixture.created(
            VHDX.self, size: Self.size, options: ["block_size": "1M", "log_size": "1M"]
        ).written(seed: 21)
        var campaign = PowerCutCampaign(fixture, seed: 1, states: 40, operations: 60, largest: 64 << 10)
        campaign.unit = 1 << 20
        #expect(try campaign.run().states >= 40)
    }

    @Test func whatAKilledSessionLeftIsSafeFromTheNextOne() throws {
        let fixture = try DiskFixture.created(
            VHDX.self, size: Self.size, options: ["block_size": "1M", "log_size": "1M"])
        var campaign = PowerCutCampaign(fixture, seed: 1, states: 40, largest: 256 << 10)
        campaign.kills = true
        #expect(try campaign.run().states >= 40)
    }

    /// Every operation of a short session fails in turn: reads, writes, barriers, with EIO and for want of room.
    @Test func aHostMayFailAtEachOperation() throws {
        let fixture = try DiskFixture.created(
            VHDX.self, size: 2 << 20, options: ["block_size": "1M", "log_size": "1M"]
        ).written(seed: 5)
        #expect(try FaultCampaign.every(fixture, operations: 3, unit: 1 << 20).run() > 40)
    }

    @Test func aHostMayFailAtAnyOperation() throws {
        let fixture = try DiskFixture.created(
            VHDX.self, size: Self.size, options: ["block_size": "1M", "log_size": "1M"])
        #expect(try FaultCampaign(fixture, seed: 3, limit: 6).run() > 20)
    }

    @Test func aHostMayFailAtAnyOperationOnAChild() throws {
        #expect(try FaultCampaign(Self.child(), seed: 4, limit: 6).run() > 20)
    }

    /// Commits come when there is enough for an entry, not with each block; QEMU flushes several times for each.
    @Test func allocatingOneGibibyteCostsFewBarriers() throws {
        let fixture = try DiskFixture.created(VHDX.self, size: 1 << 30, options: ["block_size": "1M"])
        let flushes = try BarrierCount.ofSequentialAllocation(fixture, step: 1 << 20)
        #expect(flushes > 1)
        #expect(flushes <= 1024 / 20, "\(flushes) barriers for 1024 blocks")
    }
}
