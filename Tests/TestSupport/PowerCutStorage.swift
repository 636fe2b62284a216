package import Bytes
package import Storage
internal import Synchronization

/// A machine with a few files that can lose power: it remembers every change of them and every flush, so that afterwards
/// any state can be made that a real one might have come back with.
package final class PowerCutMachine: Sendable {
    /// One thing that happened to a file.
    package enum Change: Sendable {
        /// Whole sectors were written, with what the file held around the bytes of the caller.
        case write(at: Int, bytes: [UInt8])
        /// The size changed; a write past the end is this and the write, and either may be lost.
        case resize(Int)
        /// A range was made to read as zeros.
        case zero(at: Int, count: Int)
        /// Everything that happened to this file before is safe.
        case flush
    }

    /// A change and the file that it happened to.
    package struct Event: Sendable {
        /// The file's index.
        package var file: Int
        /// What happened.
        package var change: Change
    }

    /// What a disk writes whole or not at all, in bytes.
    package static let sectorBytes = 512

    private struct State {
        var files: [SparseBytes]
        var log: [Event] = []
    }

    private let state: Mutex<State>
    private let names: [String]
    private let canPunch: Bool

    /// The files as they were before anything happened.
    package let start: [SparseBytes]

    /// A machine with files of these contents; one whose filesystem cannot punch holes where `canPunch` is false.
    package init(_ files: [SparseBytes], names: [String] = [], canPunch: Bool = true) {
        start = files
        state = Mutex(State(files: files))
        self.names = files.indices.map { $0 < names.count ? names[$0] : "file\($0)" }
        self.canPunch = canPunch
    }

    /// A machine on which `events` have happened since its files were `start`, which makes them `files`.
    init(_ start: [SparseBytes], after events: [Event], showing files: [SparseBytes], of machine: PowerCutMachine) {
        self.start = start
        state = Mutex(State(files: files, log: events))
        names = machine.names
        canPunch = machine.canPunch
    }

    /// The files, as the formats see them.
    package var storages: [any Storage] {
        names.enumerated().map {
            PowerCutStorage(machine: self, index: $0.offset, name: $0.element, canPunch: canPunch)
        }
    }

    /// How many events there have been.
    package var position: Int { state.withLock { $0.log.count } }

    /// Everything that happened.
    package var log: [Event] { state.withLock { $0.log } }

    /// The files as a program sees them now.
    package var contents: [SparseBytes] { state.withLock { $0.files } }

    fileprivate func content<Result>(_ file: Int, _ body: (SparseBytes) -> sending Result) -> sending Result {
        state.withLock { body($0.files[file]) }
    }

    fileprivate func write(_ file: Int, at offset: Int, _ bytes: UnsafeRawBufferPointer) {
        state.withLock { state in
            let end = offset + bytes.count
            if end > state.files[file].size { state.log.append(Event(file: file, change: .resize(end))) }
            state.files[file].write(at: offset, bytes)
            let first = offset / Self.sectorBytes * Self.sectorBytes
            let last = (end + Self.sectorBytes - 1) / Self.sectorBytes * Self.sectorBytes
            let sectors = state.files[file].bytes(at: first, count: last - first)
            state.log.append(Event(file: file, change: .write(at: first, bytes: sectors)))
        }
    }

    fileprivate func zero(_ file: Int, at offset: Int, count: Int) {
        let sector = Self.sectorBytes
        state.withLock { state in
            state.files[file].zero(at: offset, count: count)
            // What is not a whole sector is zeroed in memory, and its sector written with what it holds besides.
            let first = min(offset + count, (offset + sector - 1) / sector * sector)
            let last = max(first, (offset + count) / sector * sector)
            for edge in [offset..<first, last..<(offset + count)] where !edge.isEmpty {
                let start = edge.lowerBound / sector * sector
                let bytes = state.files[file].bytes(at: start, count: sector)
                state.log.append(Event(file: file, change: .write(at: start, bytes: bytes)))
            }
            if first < last {
                state.log.append(Event(file: file, change: .zero(at: first, count: last - first)))
            }
        }
    }

    fileprivate func resize(_ file: Int, to size: Int) {
        state.withLock { state in
            state.files[file].resize(to: size)
            state.log.append(Event(file: file, change: .resize(size)))
        }
    }

    fileprivate func flush(_ file: Int) {
        state.withLock { $0.log.append(Event(file: file, change: .flush)) }
    }
}

/// A file of a machine that can lose power.
package final class PowerCutStorage: Storage {
    package let name: String
    package let identity: FileIdentity?
    private let machine: PowerCutMachine
    private let index: Int
    private let canPunch: Bool

    fileprivate init(machine: PowerCutMachine, index: Int, name: String, canPunch: Bool) {
        self.machine = machine
        self.index = index
        self.name = name
        self.canPunch = canPunch
        identity = FileIdentity(device: 0, inode: UInt64(index), birth: 0)
    }

    package var isWritable: Bool { true }

    package var size: UInt64 { UInt64(machine.content(index) { $0.size }) }

    package func refresh() throws(ImageError) -> UInt64 { size }

    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        guard let start = Int(exactly: offset.rawValue) else { return 0 }
        nonisolated(unsafe) let target = buffer
        return machine.content(index) { $0.read(at: start, into: target) }
    }

    package func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    package func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        guard let start = Int(exactly: offset.rawValue) else { return nil }
        return machine.content(index) { $0.nextData(from: start) }.map { HostOffset(UInt64($0)) }
    }

    package func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset {
        guard let start = Int(exactly: offset.rawValue) else { return HostOffset(size) }
        return HostOffset(UInt64(machine.content(index) { $0.nextHole(from: start) }))
    }

    package func allocatedBytes() throws(ImageError) -> UInt64 {
        UInt64(machine.content(index) { $0.allocatedBytes })
    }

    package func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard bytes.count > 0 else { return }
        machine.write(index, at: try position(offset.advanced(by: UInt64(bytes.count))) - bytes.count, bytes)
    }

    package func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        guard holds(offset, count: count) else { throw outside(offset) }
        machine.zero(index, at: Int(offset.rawValue), count: Int(count))
    }

    package func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        guard holds(offset, count: count) else { throw outside(offset) }
        guard canPunch else { return false }
        machine.zero(index, at: Int(offset.rawValue), count: Int(count))
        return true
    }

    package func resize(to size: UInt64) throws(ImageError) {
        machine.resize(index, to: try position(HostOffset(size)))
    }

    package func flush() throws(ImageError) { machine.flush(index) }

    package func close() {}

    /// A simulated file has an end well before memory has.
    private func position(_ offset: HostOffset?) throws(ImageError) -> Int {
        guard let offset, offset.rawValue <= 1 << 36 else {
            throw ImageError(.noSpace, "a simulated file cannot be that large", file: name)
        }
        return Int(offset.rawValue)
    }

    private func outside(_ offset: HostOffset) -> ImageError {
        ImageError(.outOfRange, "a hole past the end of the file", at: offset.rawValue, file: name)
    }
}
