import Bytes
import Storage
import Synchronization
import TestSupport

/// A file that can lose power: what was written since the last flush reaches the medium in any part, sector by sector.
final class VHDXCrashStorage: Storage {
    private static let pageBytes: UInt64 = 4096
    private static let sectorBytes: UInt64 = 512

    struct Content: Sendable {
        var size: UInt64 = 0
        var pages: [UInt64: [UInt8]] = [:]

        mutating func write(_ bytes: ArraySlice<UInt8>, at offset: UInt64) {
            var done = 0
            while done < bytes.count {
                let position = offset + UInt64(done)
                let start = Int(position % pageBytes)
                let count = min(Int(pageBytes) - start, bytes.count - done)
                let from = bytes.startIndex + done
                pages[position / pageBytes, default: [UInt8](repeating: 0, count: Int(pageBytes))]
                    .replaceSubrange(start..<(start + count), with: bytes[from..<(from + count)])
                done += count
            }
            size = max(size, offset + UInt64(bytes.count))
        }

        mutating func zero(_ offset: UInt64, _ count: UInt64) {
            var position = offset
            while position < offset + count {
                let step = min(pageBytes - position % pageBytes, offset + count - position)
                if step == pageBytes {
                    pages[position / pageBytes] = nil
                } else if pages[position / pageBytes] != nil {
                    write([UInt8](repeating: 0, count: Int(step))[...], at: position)
                }
                position += step
            }
        }

        mutating func resize(_ newSize: UInt64) {
            if newSize < size {
                zero(newSize, (size - newSize + pageBytes - 1) / pageBytes * pageBytes + pageBytes)
            }
            size = newSize
        }
    }

    enum Operation: Sendable {
        case write(UInt64, [UInt8])
        case zero(UInt64, UInt64)
        case resize(UInt64)
    }

    struct State: Sendable {
        var durable: Content
        var current: Content
        var pending: [Operation] = []
        var operations = 0
        /// The operation at which the power goes, or the host fails.
        var limit = Int.max
        var limitError = ImageError.Kind.io
        var failsOnce = false
        var flushes = 0
        var isLost = false
    }

    let name = "crash"
    let identity: FileIdentity? = nil
    let isWritable: Bool
    let state: Mutex<State>

    init(_ content: Content, isWritable: Bool = true) {
        state = Mutex(State(durable: content, current: content))
        self.isWritable = isWritable
    }

    convenience init(copying other: any Storage) throws {
        var content = Content(size: other.size)
        var position: UInt64 = 0
        while let data = try other.nextData(from: HostOffset(position)) {
            let start = data.rawValue / Self.pageBytes * Self.pageBytes
            let end = try other.nextHole(from: data).rawValue
            position = start
            while position < end {
                let count = Int(min(1 << 20, end - position))
                content.write(try other.bytes(at: HostOffset(position), count: count)[...], at: position)
                position += UInt64(count)
            }
            let zeros = [UInt8](repeating: 0, count: Int(Self.pageBytes))
            content.pages = content.pages.filter { firstDifference($0.value, zeros) != nil }
        }
        content.size = other.size
        self.init(content)
    }

    var content: Content { state.withLock { $0.current } }
    var operations: Int { state.withLock { $0.operations } }
    var flushes: Int { state.withLock { $0.flushes } }

    /// Lets the operation after `count` further ones fail, and all after it.
    func fail(after count: Int, with kind: ImageError.Kind = .io, once: Bool = false) {
        state.withLock {
            $0.limit = count == .max ? .max : $0.operations + count
            $0.limitError = kind
            $0.failsOnce = once
        }
    }

    /// What may be on the medium when the power goes now: `chance` of 256 for each sector not flushed, or all of them.
    func afterPowerCut(_ random: inout SeededRandom, chance: UInt64) -> Content {
        let (durable, pending) = state.withLock { ($0.durable, $0.pending) }
        var content = durable
        for operation in pending {
            switch operation {
            case .write(let offset, let bytes):
                var done = 0
                while done < bytes.count {
                    let position = offset + UInt64(done)
                    let step = min(Int(Self.sectorBytes - position % Self.sectorBytes), bytes.count - done)
                    if random.next() % 256 < chance { content.write(bytes[done..<(done + step)], at: position) }
                    done += step
                }
            case .zero(let offset, let count):
                if random.next() % 256 < chance { content.zero(offset, count) }
            case .resize(let size):
                if random.next() % 256 < chance { content.resize(size) }
            }
        }
        return content
    }

    private func change(_ operation: Operation) throws(ImageError) {
        let failure = state.withLock { state -> ImageError? in
            if let failure = Self.step(&state) { return failure }
            state.pending.append(operation)
            switch operation {
            case .write(let offset, let bytes): state.current.write(bytes[...], at: offset)
            case .zero(let offset, let count): state.current.zero(offset, count)
            case .resize(let size): state.current.resize(size)
            }
            return nil
        }
        if let failure { throw failure }
    }

    private static func step(_ state: inout State) -> ImageError? {
        state.operations += 1
        guard state.operations > state.limit else { return nil }
        if state.failsOnce { state.limit = .max }
        return ImageError(state.limitError, "the test makes the host fail")
    }

    // MARK: - Storage

    var size: UInt64 { state.withLock { $0.current.size } }

    func refresh() throws(ImageError) -> UInt64 { size }

    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        state.withLock { state in
            guard offset.rawValue < state.current.size else { return 0 }
            let total = Int(min(UInt64(buffer.count), state.current.size - offset.rawValue))
            var done = 0
            while done < total {
                let position = offset.rawValue + UInt64(done)
                let start = Int(position % Self.pageBytes)
                let count = min(Int(Self.pageBytes) - start, total - done)
                let target = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<(done + count)])
                if let page = state.current.pages[position / Self.pageBytes] {
                    page.withUnsafeBytes {
                        target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<(start + count)]))
                    }
                } else {
                    target.initializeMemory(as: UInt8.self, repeating: 0)
                }
                done += count
            }
            return total
        }
    }

    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? { offset.rawValue < size ? offset : nil }

    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { HostOffset(size) }

    func allocatedBytes() throws(ImageError) -> UInt64 {
        state.withLock { UInt64($0.current.pages.count) * Self.pageBytes }
    }

    func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        try change(.write(offset.rawValue, Array(bytes)))
    }

    func zero(at offset: HostOffset, count: UInt64) throws(ImageError) { try change(.zero(offset.rawValue, count)) }

    func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        guard offset.rawValue + count <= size else {
            throw ImageError(.outOfRange, "a hole past the end of the file", at: offset.rawValue)
        }
        try change(.zero(offset.rawValue, count))
        return true
    }

    func resize(to size: UInt64) throws(ImageError) { try change(.resize(size)) }

    func flush() throws(ImageError) {
        let failure = state.withLock { state -> ImageError? in
            if let failure = Self.step(&state) { return failure }
            state.flushes += 1
            state.durable = state.current
            state.pending = []
            return nil
        }
        if let failure { throw failure }
    }

    func close() {}
}

private let pageBytes: UInt64 = 4096
