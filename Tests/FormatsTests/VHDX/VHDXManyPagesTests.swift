import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// One request that gives up blocks all over a large disk: entries in far more pages of the table than a batch may change.
struct VHDXManyPagesTests {
    private static let pages = 300
    /// What one page of 4 KiB of the table maps with blocks of 1 MiB.
    private static let step: UInt64 = 512 << 20

    /// A machine with an image that has one block in each of so many pages, and the sectors that were written.
    private static func machine(pages: Int) throws -> (fixture: DiskFixture, machine: PowerCutMachine) {
        var fixture = try DiskFixture.created(
            VHDX.self, size: UInt64(pages) * step, options: ["block_size": "1M", "log_size": "1M"])
        let first = PowerCutMachine(fixture.files.map(\.content))
        let disk = try fixture.open(first.storages, true)
        for page in 0..<pages {
            let start = UInt64(page) * step
            try sector(page).withUnsafeBytes { try disk.write(ByteRange(start, to: start + 512), from: $0) }
        }
        try disk.finish()
        fixture.files[0].content = first.contents[0]
        return (fixture, PowerCutMachine(first.contents))
    }

    private static func sector(_ page: Int) -> [UInt8] {
        var random = SeededRandom(seed: UInt64(page) + 1)
        return random.bytes(512)
    }

    /// For each page whether its block still has its bytes; throws where it has neither those nor zeros.
    private static func kept(_ disk: Disk, pages: Int) throws -> [Bool] {
        try (0..<pages).map { page in
            let bytes = try disk.contents(ByteRange(UInt64(page) * step, to: UInt64(page) * step + 512))
            if bytes == sector(page) { return true }
            try ContractViolation.check(bytes == zeroBytes(512), "page \(page) has neither its bytes nor zeros")
            return false
        }
    }

    /// Entries go out in batches that fit the log: commits come in between, without a flush by anybody.
    @Test func oneRequestIsSeveralCommits() throws {
        let (fixture, machine) = try Self.machine(pages: Self.pages)
        let disk = try fixture.open(machine.storages, true)
        let before = machine.position
        try disk.zero(ByteRange(0, to: disk.size))
        let barriers = machine.log[before...].count { if case .flush = $0.change { true } else { false } }
        // 96 pages are enough for a commit; each has two barriers, and the session's beginning one or two more.
        #expect(barriers >= 2 * (Self.pages / 128))
        let written = machine.log[before...].map { event -> Int in
            if case .write(_, let bytes) = event.change { bytes.count } else { 0 }
        }
        #expect((written.max() ?? 0) <= 1 << 20, "no write is longer than the log")
        #expect(try Self.kept(disk, pages: Self.pages).allSatisfy { !$0 })
        try disk.finish()
        let again = PowerCutMachine(machine.contents)
        #expect(try Self.kept(fixture.open(again.storages, false), pages: Self.pages).allSatisfy { !$0 })
        let report = try fixture.check(again.storages)
        #expect(report.corruptions == 0 && report.leaks == 0 && report.allocatedBytes == 0)
        #expect(machine.contents[0].size < 16 << 20, "the file has shrunk to its metadata and the log")
    }

    /// Whatever a loss of power leaves: each block reads as before or as zeros, nothing is corrupt, and the same request
    /// made again empties the disk.
    @Test func powerLossDuringOneRequest() throws {
        let pages = 130
        let (fixture, machine) = try Self.machine(pages: pages)
        let whole = ByteRange(0, to: UInt64(pages) * Self.step)
        var sweep = PowerCutSweep(machine.contents)
        (sweep.most, sweep.losses) = (60, 2)
        var left: Set<Int> = []
        let states = try sweep.run { storages in
            let disk = try fixture.open(storages, true)
            try disk.zero(whole)
            try disk.flush()
            try disk.finish()
        } look: { machine in
            let kept = try Self.kept(fixture.open(machine.storages, false), pages: pages)
            left.insert(kept.count { $0 })
            try fixture.checkClean(machine.storages, "as it came back")
            let disk = try fixture.open(machine.storages, true)
            try ContractViolation.check(
                try Self.kept(disk, pages: pages) == kept, "opened for writing it reads otherwise")
            try disk.zero(whole)
            try disk.finish()
            try ContractViolation.check(
                try Self.kept(fixture.open(machine.storages, false), pages: pages).allSatisfy { !$0 }, "not empty")
            try fixture.checkClean(machine.storages, "after the next session")
        }
        #expect(states > 60)
        // The request took more than one commit: there are states in which a part of the blocks is gone.
        #expect(left.contains(pages) && left.contains(0) && left.count > 2, "\(left.sorted())")
    }
}
