package import Bytes
internal import CLinux
internal import Glibc
internal import Synchronization

/// A block device that becomes an image. To the format it is an empty file: what it has not written reads as zeros,
/// whatever was on the device.
///
/// What tells an image by its content is at the beginning of the device or at its end. Those two pieces are zeroed first
/// and written last, each with a barrier, so that a loss of power leaves a device without an image, or with a whole one.
package final class NewDevice: NewTarget, Storage {
    private struct State {
        /// Up to here the device holds what a file would.
        var reach: UInt64 = 0
        /// The first and the last bytes of the device, as they will be.
        var head = [UInt8](repeating: 0, count: NewDevice.edge)
        var tail = [UInt8](repeating: 0, count: NewDevice.edge)
        /// Whether the device has been changed.
        var hasBegun = false
    }

    /// The bytes at either end that are written last.
    private static let edge = 4096

    /// The size of the device in bytes.
    package let deviceBytes: UInt64

    private let device: FileStorage
    private let state = Mutex(State())

    /// Returns whether there is a block device at `path`, or a symbolic link to one.
    package static func isDevice(_ path: String) -> Bool {
        var facts = clinux_file_facts()
        return clinux_facts_at(AT_FDCWD, path, 0, &facts) == 0 && facts.mode & UInt32(S_IFMT) == UInt32(S_IFBLK)
    }

    /// Takes the device at `path` for nobody else, where `replaces` says that what is on it may go. Throws `.denied`,
    /// `.busy` where it is mounted or otherwise in use, `.noSpace` for one of a few sectors, and `.io`.
    package init(path: String, replaces: Bool) throws(ImageError) {
        guard replaces else {
            throw ImageError(
                .denied, "is a block device; with --force what is on it is overwritten", errno: EEXIST, file: path)
        }
        let descriptor = clinux_open_at(AT_FDCWD, path, O_RDWR | O_EXCL | O_NONBLOCK)
        guard descriptor >= 0 else {
            let code = errno
            guard code == EBUSY else {
                throw ImageError(
                    kind(of: code), "cannot open the device for writing", errno: code,
                    detail: String(cString: strerror(code)).lowercased(), file: path)
            }
            throw ImageError(
                .busy, "the device is in use: it is mounted, or part of an array or of a volume group", file: path)
        }
        device = try FileStorage(owning: descriptor, name: path, isWritable: true)
        _ = try FileLock.lockForWriting(device)
        deviceBytes = device.size
        guard device.isDevice, deviceBytes >= UInt64(2 * Self.edge) else {
            throw ImageError(.noSpace, "the device is too small for any image", file: path)
        }
    }

    package var bytes: any Storage { self }

    package func keep() throws(ImageError) {
        try begin()
        try device.flush()
        try writeEdges(state.withLock { $0 })
    }

    package func remove() {
        if state.withLock({ $0.hasBegun }) { _ = try? writeEdges(State()) }
    }

    /// Takes away what tells the old content, before the first byte of the new one is written and not earlier: a format that
    /// refuses a size or an option has then changed nothing.
    private func begin() throws(ImageError) {
        guard !state.withLock({ $0.hasBegun }) else { return }
        try writeEdges(State())
        state.withLock { $0.hasBegun = true }
    }

    /// Writes both ends, the beginning last.
    private func writeEdges(_ state: State) throws(ImageError) {
        try device.write(at: HostOffset(deviceBytes - UInt64(Self.edge)), state.tail)
        try device.flush()
        try device.write(at: HostOffset(0), state.head)
        try device.flush()
    }

    // MARK: - As a file

    package var name: String { device.name }
    package var identity: FileIdentity? { device.identity }
    package var isWritable: Bool { true }
    package var size: UInt64 { state.withLock { $0.reach } }

    @discardableResult
    package func refresh() throws(ImageError) -> UInt64 { size }

    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        let (reach, head, tail) = state.withLock { ($0.reach, $0.head, $0.tail) }
        guard offset.rawValue < reach else { return 0 }
        let count = Int(min(UInt64(buffer.count), reach - offset.rawValue))
        let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
        try device.readAll(at: offset, into: part)
        for (start, bytes) in [(0, head), (deviceBytes - UInt64(Self.edge), tail)] {
            let lower = max(start, offset.rawValue)
            let upper = min(start + UInt64(Self.edge), offset.rawValue + UInt64(count))
            guard lower < upper else { continue }
            for position in lower..<upper { part[Int(position - offset.rawValue)] = bytes[Int(position - start)] }
        }
        return count
    }

    package func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    package func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        offset.rawValue < size ? offset : nil
    }

    package func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { HostOffset(size) }

    package func allocatedBytes() throws(ImageError) -> UInt64 { size }

    package func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        let end = try end(of: offset, UInt64(bytes.count))
        try reach(to: offset.rawValue)
        let (lower, upper) = middle(offset.rawValue, end)
        if lower < upper {
            try begin()
            let start = Int(lower - offset.rawValue)
            try device.write(
                at: HostOffset(lower), UnsafeRawBufferPointer(rebasing: bytes[start..<(start + Int(upper - lower))]))
        }
        state.withLock { state in
            setEdges(&state, offset.rawValue, end) { bytes[Int($0 - offset.rawValue)] }
            state.reach = max(state.reach, end)
        }
    }

    package func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        let end = try end(of: offset, count)
        let (lower, upper) = middle(offset.rawValue, end)
        if lower < upper {
            try begin()
            try device.zero(at: HostOffset(lower), count: upper - lower)
        }
        state.withLock { setEdges(&$0, offset.rawValue, end) { _ in 0 } }
    }

    package func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool { false }

    package func allocate(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        try reach(to: end(of: offset, count))
        return true
    }

    package func resize(to size: UInt64) throws(ImageError) {
        _ = try end(of: HostOffset(0), size)
        try reach(to: size)
        state.withLock { $0.reach = size }
    }

    package func flush() throws(ImageError) {
        if state.withLock({ $0.hasBegun }) { try device.flush() }
    }

    package func startWriteback() { device.startWriteback() }

    package func close() { device.close() }

    /// Makes everything up to `end` that was not written zero.
    private func reach(to end: UInt64) throws(ImageError) {
        let start = size
        guard start < end else { return }
        try zero(at: HostOffset(start), count: end - start)
        state.withLock { $0.reach = end }
    }

    private func end(of offset: HostOffset, _ count: UInt64) throws(ImageError) -> UInt64 {
        guard let end = offset.advanced(by: count)?.rawValue, end <= deviceBytes else {
            throw ImageError(
                .noSpace, "the device is smaller than the image", detail: "it has \(deviceBytes.counted("byte"))",
                file: name)
        }
        return end
    }

    /// The part of a range that lies between the two ends.
    private func middle(_ lower: UInt64, _ upper: UInt64) -> (UInt64, UInt64) {
        (max(lower, UInt64(Self.edge)), min(upper, deviceBytes - UInt64(Self.edge)))
    }

    /// Puts the bytes of a range that lie in the two ends there.
    private func setEdges(_ state: inout State, _ lower: UInt64, _ upper: UInt64, _ byte: (UInt64) -> UInt8) {
        let edge = UInt64(Self.edge)
        for position in lower..<max(lower, min(upper, edge)) { state.head[Int(position)] = byte(position) }
        let start = deviceBytes - edge
        for position in max(lower, start)..<max(lower, start, upper) {
            state.tail[Int(position - start)] = byte(position)
        }
    }
}
