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
    /// Whether the image is in files of the host, and not in memory under one lock. That is for ThreadSanitizer: it takes
    /// any lock that two threads took in turn for the reason why they do not race, and would see little of the disk's
    /// own races behind a lock in every access of a test's storage.
    package var isOnHost = false

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

    /// What the threads hand in.
    private final class Results: Sendable {
        let contents: Mutex<[SparseBytes]>

        init(_ start: SparseBytes, threads: Int) {
            contents = Mutex([SparseBytes](repeating: start, count: threads))
        }
    }

    /// Runs it. Throws a `ContractViolation`, or what an operation threw.
    package func run() throws {
        let place: any ThreadCampaignPlace = isOnHost ? try FilesOnHost(fixture) : FilesInMemory(fixture)
        let before = try fixture.open(place.storages(), false)
        let start = try before.contents()
        let snapshot = try before.snapshots().isEmpty ? nil : before.openSnapshot(0).contents()
        let disk = try fixture.open(place.storages(), true)
        // A partition over the whole disk: it has the same writer.
        let part = disk.part(ByteRange(0, to: disk.size), name: "part") ?? disk
        let results = Results(start, threads: threads)
        try concurrently(threads) { thread in
            var worker = DiskWorker(
                number: thread, count: threads, disk: thread % 2 == 0 ? disk : part, sliceBytes: sliceBytes,
                snapshot: snapshot, content: start, random: SeededRandom(seed: seed &* 1000 &+ UInt64(thread)))
            try worker.work(operations)
            results.contents.withLock { $0[thread] = worker.content }
        }
        try disk.finish()
        let expected = merged(results.contents.withLock { $0 })
        try compare(try disk.contents().bytes, expected, "at the end")
        try compare(try fixture.open(place.storages(), false).contents().bytes, expected, "opened again")
        try fixture.checkClean(place.storages(), "after the session")
    }

    /// The slices of each thread as that thread left them.
    private func merged(_ contents: [SparseBytes]) -> [UInt8] {
        var bytes = contents[0].bytes
        for slice in 0..<(bytes.count / sliceBytes) {
            let start = slice * sliceBytes
            bytes.replaceSubrange(
                start..<(start + sliceBytes), with: contents[slice % threads].bytes(at: start, count: sliceBytes))
        }
        return bytes
    }

    private func compare(_ found: [UInt8], _ expected: [UInt8], _ when: String) throws {
        guard let index = firstDifference(found, expected) else { return }
        throw ContractViolation("byte \(index) is wrong \(when), in \(fixture.name), seed \(seed)")
    }
}

/// One thread, with what it has written. It shares nothing with the others but the disk.
private struct DiskWorker {
    let number: Int
    let count: Int
    let disk: Disk
    let sliceBytes: Int
    /// What the first snapshot of the image holds, and must go on to hold.
    let snapshot: SparseBytes?
    var content: SparseBytes
    var random: SeededRandom

    mutating func work(_ operations: Int) throws {
        let slices = Int(disk.size) / sliceBytes
        for step in 0..<operations {
            if step % 16 == 15 { try disk.housekeep() }
            let slice = Int.random(in: 0..<max(1, slices / count), using: &random) * count + number
            guard slice < slices else { continue }
            switch random.next() % 20 {
            case 0: try disk.flush()
            case 1..<5: try zero(part(of: slice))
            case 5..<8: try look()
            default: try write(part(of: slice))
            }
            try compare(slice, step)
        }
    }

    private mutating func part(of slice: Int) -> ByteRange {
        let length = Int.random(in: 1...sliceBytes, using: &random)
        let offset = slice * sliceBytes + Int.random(in: 0...(sliceBytes - length), using: &random)
        return ByteRange(UInt64(offset), to: UInt64(offset + length))
    }

    private mutating func zero(_ range: ByteRange) throws {
        try disk.zero(range)
        content.zero(at: Int(range.lower), count: Int(range.length))
    }

    private mutating func write(_ range: ByteRange) throws {
        let pattern = random.bytes(16)
        let bytes = (0..<Int(range.length)).map { pattern[$0 & 15] }
        try bytes.withUnsafeBytes { bytes in
            try disk.write(range, from: bytes)
            content.write(at: Int(range.lower), bytes)
        }
    }

    /// Looks anywhere. What is there belongs to others, who change it meanwhile: this must only not fail.
    private mutating func look() throws {
        let start = UInt64.random(in: 0..<disk.size, using: &random)
        let range = ByteRange(start, to: min(disk.size, start + (64 << 10)))
        switch random.next() % 8 {
        case 0: _ = try disk.nextData(from: start)
        case 1: _ = try disk.nextHole(from: start)
        case 2: _ = try disk.map(from: start)
        case 3: _ = try disk.allocatedBytes() + (disk.hasUncommittedChanges ? 1 : 0)
        case 4: try lookAtSnapshot()
        case 5:
            let lease = disk.beginTransfer()
            defer { disk.endTransfer(lease) }
            _ = try disk.contents(range)
        default: _ = try disk.contents(range)
        }
    }

    private mutating func lookAtSnapshot() throws {
        guard let snapshot else { return }
        let start = Int.random(in: 0..<snapshot.size, using: &random)
        let end = min(snapshot.size, start + (64 << 10))
        let found = try disk.openSnapshot(0).contents(ByteRange(UInt64(start), to: UInt64(end)))
        guard let index = firstDifference(found, snapshot.bytes(at: start, count: end - start)) else { return }
        throw ContractViolation("byte \(start + index) of the snapshot has changed")
    }

    private func compare(_ slice: Int, _ step: Int) throws {
        let start = slice * sliceBytes
        let expected = content.bytes(at: start, count: sliceBytes)
        let found = try disk.contents(ByteRange(UInt64(start), to: UInt64(start + sliceBytes)))
        guard let index = firstDifference(found, expected) else { return }
        throw ContractViolation("thread \(number) reads byte \(start + index) wrong after step \(step)")
    }
}

/// Where the files of a fixture are.
private protocol ThreadCampaignPlace {
    /// Opens all of them.
    func storages() throws -> [any Storage]
}

private struct FilesInMemory: ThreadCampaignPlace {
    let machine: PowerCutMachine

    init(_ fixture: DiskFixture) {
        machine = PowerCutMachine(fixture.files.map(\.content), names: fixture.files.map(\.name))
    }

    func storages() -> [any Storage] { machine.storages }
}

private struct FilesOnHost: ThreadCampaignPlace {
    let directory: TemporaryDirectory
    let names: [String]

    init(_ fixture: DiskFixture) throws {
        directory = try TemporaryDirectory("threads")
        names = fixture.files.map(\.name)
        for file in fixture.files { try directory.write(file.content.bytes, to: file.name) }
    }

    func storages() throws -> [any Storage] {
        try names.map { name in
            try FileStorage(
                owning: HostFiles.open(directory.file(name), writing: true), name: name, isWritable: true)
        }
    }
}
