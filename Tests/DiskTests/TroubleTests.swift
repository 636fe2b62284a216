internal import Bytes
internal import Disk
internal import Formats
internal import Storage
internal import TestSupport
internal import Testing

/// What the writer makes of a host in trouble, format by format.
@Suite struct TroubleTests {
    /// The formats, with options that keep their images small.
    static let formats = ["raw", "vhd", "vhdx", "qcow2"]

    private static func fixture(_ name: String, size: UInt64 = 4 << 20) throws -> DiskFixture {
        let format = try #require(Registry.format(named: name))
        let options = ["vhd": ["block_size": "64K"], "vhdx": ["block_size": "1M", "log_size": "1M"]]
        return try DiskFixture.created(format, size: size, options: options[name] ?? [:])
    }

    private static func pattern(_ byte: UInt8, _ count: Int) -> [UInt8] { [UInt8](repeating: byte, count: count) }

    private let trouble = HostTrouble()

    private func open(_ fixture: DiskFixture) throws -> (disk: Disk, machine: PowerCutMachine) {
        let machine = PowerCutMachine(fixture.files.map(\.content), names: fixture.files.map(\.name))
        return (try fixture.open(trouble.over(machine.storages), true), machine)
    }

    /// What `machine` comes back with when everything that was not flushed is lost.
    private func afterPowerLoss(_ machine: PowerCutMachine, _ fixture: DiskFixture) throws -> SparseBytes {
        var replay = PowerCutReplay(machine)
        replay.advance(to: machine.position)
        var random = SeededRandom(seed: 1)
        let state = PowerCutMachine(replay.state(.everything, using: &random), names: fixture.files.map(\.name))
        #expect(try fixture.check(state.storages).corruptions == 0)
        return try fixture.open(state.storages, false).contents()
    }

    /// A flush that is asked for again after one failed says success, whatever was lost.
    @Test(arguments: formats) func afterAFailedBarrierNothingIsWritten(format: String) throws {
        let fixture = try Self.fixture(format)
        let (disk, machine) = try open(fixture)
        try disk.write(Self.pattern(1, 70_000), at: 0)
        try disk.flush()
        try disk.write(Self.pattern(2, 70_000), at: 2 << 20)
        trouble.failsFlush = true
        #expect(try failure { try disk.flush() }.kind == .io)
        trouble.failsFlush = false
        let position = machine.position
        #expect(try failure { try disk.flush() }.kind == .io)
        #expect(try failure { try disk.write([3], at: 0) }.kind == .io)
        #expect(try failure { try disk.write([3], at: 3 << 20) }.kind == .io)
        #expect(try failure { try disk.zero(ByteRange(0, to: 65_536)) }.kind == .io)
        #expect(try failure { try disk.rest() }.kind == .io)
        #expect(try failure { try disk.finish() }.kind == .io)
        try disk.housekeep()
        #expect(!disk.hasUncommittedChanges)
        #expect(machine.position == position, "something was written after the barrier failed")
        #expect(try disk.content(ByteRange(0, to: 70_000)) == Self.pattern(1, 70_000))
        let left = try afterPowerLoss(machine, fixture)
        #expect(left.bytes(at: 0, count: 70_000) == Self.pattern(1, 70_000))
    }

    /// A disk on the fixture's file whose log goes into `lines`.
    private func open(_ fixture: DiskFixture, _ name: String, loggingInto lines: LogLines) throws -> Disk {
        let machine = PowerCutMachine(fixture.files.map(\.content), names: fixture.files.map(\.name))
        let format = try #require(Registry.format(named: name))
        let storage = trouble.over(machine.storages)[0]
        var options = DiskOptions.logging(into: lines)
        options.isWritable = true
        let driver = try format.open(OpenRequest(storage: storage, companions: NoCompanions(), isWritable: true))
        return try Disk.assemble([(path: "the image", driver: driver)], name: "the image", options: options)
    }

    /// A program that asks for a commit again and again does not fill the log with its failures.
    @Test(arguments: formats.dropFirst()) func aCommitThatFailsIsOneLineInTheLog(format: String) throws {
        let lines = LogLines()
        let disk = try open(Self.fixture(format), format, loggingInto: lines)
        try disk.write(Self.pattern(1, 70_000), at: 0)
        trouble.isFull = true
        for _ in 0..<5 { #expect(try failure { try disk.flush() }.kind == .noSpace) }
        #expect(try failure { try disk.rest() }.kind == .noSpace)
        #expect(lines.all.count == 1, "\(lines.all)")
        let line = try #require(lines.all.first)
        #expect(line.hasPrefix("error: the image: ") && line.contains("until there is room"), "\(line)")
        trouble.isFull = false
        try disk.flush()
        try disk.write(Self.pattern(2, 70_000), at: 1 << 20)
        trouble.failsFlush = true
        for _ in 0..<3 { #expect(try failure { try disk.flush() }.kind == .io) }
        #expect(lines.all.count == 2, "\(lines.all)")
        #expect(lines.all.last?.contains("until the image is opened again") == true, "\(lines.all)")
    }

    /// A host without holes is worth a line, and not one for each hole.
    @Test(arguments: formats.dropFirst()) func aHostWithoutHolesIsOneLineInTheLog(format: String) throws {
        let lines = LogLines()
        let disk = try open(Self.fixture(format), format, loggingInto: lines)
        trouble.refusesHoles = true
        try disk.write(Self.pattern(1, 3 << 20), at: 0)
        try disk.flush()
        try disk.housekeep()
        #expect(lines.all.isEmpty, "nothing was punched yet: \(lines.all)")
        for place in 0..<3 {
            try disk.zero(ByteRange(UInt64(place) << 20, to: UInt64(place + 1) << 20))
            try disk.flush()
            try disk.housekeep()
        }
        try disk.finish()
        #expect(lines.all.count == 1, "\(lines.all)")
        #expect(lines.all.first?.contains("cannot punch holes") == true, "\(lines.all)")
        #expect(try disk.content(ByteRange(0, to: 3 << 20)) == zeroBytes(3 << 20))
    }

    /// What comes in bulk goes to the host's disk while it comes; what is little may be overwritten first.
    @Test(arguments: formats) func theHostBeginsToWriteOutWhatComesInBulk(format: String) throws {
        let (disk, _) = try open(Self.fixture(format, size: 32 << 20))
        for place in 0..<7 { try disk.write(Self.pattern(1, 1 << 20), at: UInt64(place) << 20) }
        #expect(!disk.wantsWriteback())
        for place in 7..<16 { try disk.write(Self.pattern(1, 1 << 20), at: UInt64(place) << 20) }
        #expect(disk.wantsWriteback())
        for place in 16..<32 { try disk.write(Self.pattern(1, 1 << 20), at: UInt64(place) << 20) }
        #expect(!disk.wantsWriteback(), "one is under way")
        disk.startWriteback()
        #expect(trouble.startedWritebacks == 1)
        #expect(disk.wantsWriteback(), "what came meanwhile counts")
        disk.startWriteback()
        #expect(!disk.wantsWriteback())
        trouble.failsFlush = true
        #expect(throws: ImageError.self) {
            try disk.write([3], at: 0); try disk.flush()
        }
        #expect(!disk.wantsWriteback(), "a poisoned image is left alone")
    }

    /// The mark of lazy refcounts goes when the write that takes it away has succeeded, and not before.
    @Test func aSessionThatFoundNoRoomAtItsEndIsEndedWhole() throws {
        let fixture = try DiskFixture.created(QCOW2.self, size: 4 << 20, options: ["lazy_refcounts": "on"])
        let (disk, machine) = try open(fixture)
        try disk.write(Self.pattern(1, 70_000), at: 0)
        try disk.flush()
        trouble.isFull = true
        #expect(try failure { try disk.finish() }.kind == .noSpace)
        trouble.isFull = false
        try disk.write(Self.pattern(2, 70_000), at: 1 << 20)
        try disk.finish()
        #expect(try machine.storages[0].bytes(at: HostOffset(79), count: 1) == [0], "still marked dirty")
        #expect(try afterPowerLoss(machine, fixture).bytes(at: 1 << 20, count: 70_000) == Self.pattern(2, 70_000))
    }

    /// Metadata that finds no room is kept, grows, and is written when there is room.
    @Test(arguments: formats.dropFirst()) func metadataThatFindsNoRoomIsWrittenLater(format: String) throws {
        let fixture = try Self.fixture(format)
        let (disk, machine) = try open(fixture)
        for round in 0..<3 {
            let place = UInt64(round) << 20
            try disk.write(Self.pattern(UInt8(round + 1), 100_000), at: place)
            trouble.isFull = true
            #expect(try failure { try disk.flush() }.kind == .noSpace)
            #expect(disk.hasUncommittedChanges)
            #expect(try failure { try disk.flush() }.kind == .noSpace)
            trouble.isFull = false
            try disk.zero(ByteRange(place, to: place + 65_536))
            try disk.write(Self.pattern(9, 5000), at: place + 300_000)
        }
        try disk.flush()
        let now = try disk.contents()
        #expect(now.bytes(at: 0, count: 65_536) == zeroBytes(65_536))
        #expect(now.bytes(at: (1 << 20) + 65_536, count: 34_464) == Self.pattern(2, 34_464))
        #expect(now.bytes(at: (2 << 20) + 300_000, count: 5000) == Self.pattern(9, 5000))
        #expect(try afterPowerLoss(machine, fixture).firstDifference(from: now) == nil)
        try disk.finish()
        #expect(try disk.contents().firstDifference(from: now) == nil)
    }

    /// A full host with an image that has dropped space: the drop is committed, and the space used for the write.
    @Test(arguments: ["vhdx", "qcow2"]) func droppedSpaceIsFoundWhenTheHostIsFull(format: String) throws {
        let fixture = try Self.fixture(format)
        let (disk, machine) = try open(fixture)
        try disk.write(Self.pattern(1, 2 << 20), at: 0)
        try disk.flush()
        trouble.limit = UInt64(machine.contents[0].size)
        for round in 0..<6 {
            let (old, new) = round % 2 == 0 ? (UInt64(0), UInt64(2 << 20)) : (2 << 20, 0)
            try disk.zero(ByteRange(old, to: old + (2 << 20)))
            try disk.write(Self.pattern(UInt8(round + 2), 2 << 20), at: new)
        }
        try disk.finish()
        let now = try disk.contents()
        #expect(now.bytes(at: 0, count: 2 << 20) == Self.pattern(7, 2 << 20))
        #expect(try fixture.check(machine.storages).corruptions == 0)
    }

    /// More than one step of `zero`.
    @Test(arguments: formats) func aDiskThatIsZeroedWholeKeepsNoData(format: String) throws {
        let fixture = try Self.fixture(format, size: 600 << 20)
        let (disk, machine) = try open(fixture)
        for place in stride(from: 0, to: UInt64(600) << 20, by: 8 << 20) {
            try disk.write(Self.pattern(1, 4096), at: place + 8192)
        }
        try disk.flush()
        let before = machine.contents[0].allocatedBytes
        let position = machine.position
        try disk.zero(ByteRange(0, to: 600 << 20))
        try disk.finish()
        #expect(try disk.nextData(from: 0) == nil)
        #expect(try disk.contents(everything: false).firstDifference(from: SparseBytes(size: 600 << 20)) == nil)
        let written = machine.log[position...].reduce(0) {
            if case .write(_, let bytes) = $1.change { $0 + bytes.count } else { $0 }
        }
        #expect(written < 8 << 20, "zeros were written where space could be dropped")
        #expect(machine.contents[0].allocatedBytes < before)
        #expect(try fixture.check(machine.storages).corruptions == 0)
    }
}

/// For an image of one file.
private struct NoCompanions: CompanionOpener {
    func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        throw ImageError(.missing, "the data file is missing", detail: name)
    }
}
