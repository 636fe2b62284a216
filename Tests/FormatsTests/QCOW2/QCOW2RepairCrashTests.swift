import Bytes
import Formats
import Storage
import Synchronization
import TestSupport
import Testing

/// Repairs that lose power: every state in between can be repaired again and holds the same bytes.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2RepairCrashTests {
    @Test(
        arguments: [
            Damage.dataRefcountZero, .dataRefcountHigh, .sharedRefcountLow, .leakedCluster, .entryFlagMissing,
            .flagOnShared, .blockZeroed, .blockLost, .blockIsData, .tableOutside, .dirtyBit, .sameClusterTwice,
        ], [QCOW2CheckTests.Kind.plain, .narrow, .old])
    func everyStateCanBeRepaired(damage: Damage, kind: QCOW2CheckTests.Kind) throws {
        let directory = try TemporaryDirectory("repair")
        var image = try QCOW2Bytes(kind.make(in: directory))
        guard damage.apply(&image) else { return }
        let content = try Self.hash(MemoryStorage(image.bytes))
        let storage = JournalStorage(image.bytes)
        _ = try QCOW2.check(OpenRequest(storage: storage, companions: NoCompanions()), repairs: true)
        #expect(storage.events.last == .flush)
        var random = SeededRandom(seed: 17)
        for state in JournalStorage.states(of: image.bytes, storage.events, &random) {
            #expect(try Self.hash(MemoryStorage(state)) == content)
            let again = JournalStorage(state)
            let request = OpenRequest(storage: again, companions: NoCompanions())
            let report = try QCOW2.check(request, repairs: true)
            #expect(report.corruptions == 0 && report.leaks == 0, "\(report.findings)")
            #expect(try QCOW2.check(request, repairs: false).findings.isEmpty)
        }
    }

    private static func hash(_ storage: any Storage) throws -> String {
        let options = FormatOptions(cacheBytes: 256 << 10)
        return try DriverReader(
            QCOW2.open(OpenRequest(storage: storage, companions: NoCompanions(), options: options))
        ).hash()
    }
}

/// A writable file in memory that remembers what was done to it, in order.
private final class JournalStorage: Storage {
    enum Event: Equatable {
        case write(Int, [UInt8])
        case resize(Int)
        case flush
    }

    let name = "journal"
    let identity: FileIdentity? = nil
    let isWritable = true
    private let state: Mutex<(bytes: [UInt8], events: [Event])>

    init(_ bytes: [UInt8]) { state = Mutex((bytes, [])) }

    var events: [Event] { state.withLock { $0.events } }
    var size: UInt64 { state.withLock { UInt64($0.bytes.count) } }

    func refresh() throws(ImageError) -> UInt64 { size }

    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        state.withLock { state in
            guard offset.rawValue < UInt64(state.bytes.count) else { return 0 }
            let part = state.bytes[Int(offset.rawValue)...].prefix(buffer.count)
            buffer.copyBytes(from: part)
            return part.count
        }
    }

    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }
    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? { offset.rawValue < size ? offset : nil }
    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { HostOffset(size) }
    func allocatedBytes() throws(ImageError) -> UInt64 { size }

    func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        record(.write(Int(offset.rawValue), Array(bytes)))
    }

    func resize(to size: UInt64) throws(ImageError) { record(.resize(Int(size))) }

    func flush() throws(ImageError) { record(.flush) }

    func close() {}

    private func record(_ event: Event) {
        state.withLock { state in
            state.events.append(event)
            Self.apply(event, to: &state.bytes)
        }
    }

    private static func apply(_ event: Event, to bytes: inout [UInt8]) {
        switch event {
        case .flush: break
        case .resize(let size):
            if size < bytes.count { bytes.removeLast(bytes.count - size) }
            bytes += [UInt8](repeating: 0, count: size - bytes.count)
        case .write(let offset, let new):
            if bytes.count < offset + new.count {
                bytes += [UInt8](repeating: 0, count: offset + new.count - bytes.count)
            }
            bytes.replaceSubrange(offset..<(offset + new.count), with: new)
        }
    }

    /// What a loss of power can leave: after each flush, some of what was written since, torn in sectors.
    static func states(of start: [UInt8], _ events: [Event], _ random: inout SeededRandom) -> [[UInt8]] {
        var states: [[UInt8]] = []
        var durable = start
        for group in events.split(separator: .flush, omittingEmptySubsequences: false) {
            let parts = group.flatMap(torn)
            for _ in 0..<min(4, 1 + parts.count) {
                var state = durable
                for part in parts where random.next() % 2 == 0 { apply(part, to: &state) }
                states.append(state)
            }
            for part in parts { apply(part, to: &durable) }
        }
        return states + [durable]
    }

    private static func torn(_ event: Event) -> [Event] {
        guard case .write(let offset, let bytes) = event else { return [event] }
        var parts: [Event] = []
        var done = 0
        while done < bytes.count {
            let step = min(512 - (offset + done) % 512, bytes.count - done)
            parts.append(.write(offset + done, Array(bytes[done..<(done + step)])))
            done += step
        }
        return parts
    }
}
