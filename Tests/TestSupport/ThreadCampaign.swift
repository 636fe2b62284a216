internal import Bytes
internal import Disk
internal import Storage
internal import Synchronization

/// Many threads on one disk at once. Each owns slices that lie between those of the others, several to an allocation
/// unit, writes and zeroes within them, and must read there what it wrote last.
package struct ThreadCampaign: Sendable {
    /// What is written.
    package var fixture: DiskFixture
    /// What everything random comes from.
    package var seed: UInt64
    /// How many threads there are.
    package var threads: Int
    /// How many operations each of them has.
    package var operations: Int
    /// The size of a slice in bytes; no multiple of a sector, so that neighbours share some.
    package var sliceBytes: Int

    /// A campaign of so many threads with so many operations each.
    package init(
        _ fixture: DiskFixture, seed: UInt64 = Torture.seed, threads: Int = 16, operations: Int = 150,
        sliceBytes: Int = (12 << 10) + 100
    ) {
        self.fixture = fixture
        self.seed = seed
        self.threads = threads
        self.operations = operations
        self.sliceBytes = sliceBytes
    }

    /// What all threads know.
    private final class Shared: Sendable {
        let disk: Disk
        let content: Mutex<SparseBytes>

        init(_ disk: Disk, _ content: SparseBytes) {
            self.disk = disk
            self.content = Mutex(content)
        }
    }

    /// Runs it. Throws a `ContractViolation`, or what an operation threw.
    package func run() throws {
        let machine = PowerCutMachine(fixture.files.map(\.content), names: fixture.files.map(\.name))
        let start = try fixture.open(machine.storages, false).contents()
        let shared = Shared(try fixture.open(machine.storages, true), start)
        try concurrently(threads) { try work($0, shared) }
        try shared.disk.finish()
        let expected = shared.content.withLock { $0 }.bytes
        try compare(try shared.disk.contents().bytes, expected, "at the end")
        let again = PowerCutMachine(machine.contents, names: fixture.files.map(\.name))
        try compare(try fixture.open(again.storages, false).contents().bytes, expected, "opened again")
        try fixture.checkClean(again.storages, "after the session")
    }

    private func compare(_ found: [UInt8], _ expected: [UInt8], _ when: String) throws {
        guard let index = firstDifference(found, expected) else { return }
        throw ContractViolation("byte \(index) is wrong \(when), in \(fixture.name), seed \(seed)")
    }

    private func work(_ thread: Int, _ shared: Shared) throws {
        var random = SeededRandom(seed: seed &* 1000 &+ UInt64(thread))
        let disk = shared.disk
        let slices = Int(disk.size) / sliceBytes
        for step in 0..<operations {
            if step % 16 == 15 { try disk.housekeep() }
            let slice = Int.random(in: 0..<max(1, slices / threads), using: &random) * threads + thread
            guard slice < slices else { continue }
            let count = Int.random(in: 1...sliceBytes, using: &random)
            let offset = slice * sliceBytes + Int.random(in: 0...(sliceBytes - count), using: &random)
            let range = ByteRange(UInt64(offset), to: UInt64(offset + count))
            switch random.next() % 16 {
            case 0: try disk.flush()
            case 1..<5:
                try disk.zero(range)
                shared.content.withLock { $0.zero(at: offset, count: count) }
            default:
                let bytes = random.bytes(16)
                let content = (0..<count).map { bytes[$0 & 15] }
                try content.withUnsafeBytes { try disk.write(range, from: $0) }
                shared.content.withLock { shown in content.withUnsafeBytes { shown.write(at: offset, $0) } }
            }
            let whole = slice * sliceBytes
            let expected = shared.content.withLock { $0.bytes(at: whole, count: sliceBytes) }
            let found = try disk.contents(ByteRange(UInt64(whole), to: UInt64(whole + sliceBytes)))
            if let index = firstDifference(found, expected) {
                throw ContractViolation("thread \(thread) reads byte \(whole + index) wrong after step \(step)")
            }
        }
    }
}
