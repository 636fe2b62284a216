internal import Bytes
internal import Storage
internal import Synchronization

/// The writing side of the driver; what it decides is in `WriteState`, one thread at a time.
extension QCOW2.Driver {
    var wantsCommit: Bool { writer.map { $0.store.dirtyBytes > $0.dirtyLimit } ?? false }

    func prepare() throws(ImageError) {
        guard let writer else { throw .openForReading }
        try writer.state.withLock { state throws(ImageError) in try state.prepare() }
    }

    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan {
        guard let writer else { throw .openForReading }
        return try writer.state.withLock { state throws(ImageError) in
            do throws(ImageError) { return try state.reserve(range) } catch { throw state.noting(error) }
        }
    }

    func publish(_ plan: consuming WritePlan, freed: inout [HostRun]) throws(ImageError) {
        guard let writer else { throw .openForReading }
        let token = plan.token
        try writer.state.withLock { state throws(ImageError) in
            do throws(ImageError) { try state.publish(token, freed: &freed) } catch { throw state.noting(error) }
        }
    }

    func cancel(_ plan: consuming WritePlan, freed: inout [HostRun]) {
        let token = plan.token
        writer?.state.withLock { state in state.cancel(token, freed: &freed) }
    }

    func release(
        _ range: ByteRange, as release: Release, freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        guard let writer else { throw .openForReading }
        return try writer.state.withLock { state throws(ImageError) in
            do throws(ImageError) {
                return try state.release(range, as: release, freed: &freed)
            } catch { throw state.noting(error) }
        }
    }

    func freeze() throws(ImageError) -> Batch? { writer?.state.withLock { state in state.freeze() } }

    func settle() { writer?.state.withLock { state in state.settle() } }

    func reclaim(_ runs: [HostRun], zeroed: Bool) { writer?.state.withLock { state in state.reclaim(runs) } }

    func close() throws(ImageError) {
        try writer?.state.withLock { state throws(ImageError) in try state.close() }
    }
}

extension QCOW2.WriteState {
    /// The same failure, after the image was marked where it says that its metadata is impossible: whoever writes on would
    /// make it worse.
    func noting(_ error: ImageError) -> ImageError {
        if error.kind == .corrupt, isReady, !health.isCorrupt { markCorrupt() }
        return error
    }
}

extension QCOW2 {
    /// Refuses what must not be written as it is, with what would help. Throws `.corrupt`.
    static func checkWritable(_ header: Header, _ snapshots: SnapshotTable) throws(ImageError) {
        guard !header.has(.corrupt) else {
            throw ImageError(
                .corrupt, "the image is marked as corrupt and can only be read; platter check says what is wrong")
        }
        if let damage = snapshots.damage {
            throw ImageError(.corrupt, "the image's snapshots cannot be read, so it is not written", detail: damage)
        }
    }

    /// The tables whose place is fixed while the image is open, besides those that every image has. Throws `.corrupt`.
    static func fixedTables(
        _ header: Header, _ extensions: Extensions, _ snapshots: SnapshotTable
    ) throws(ImageError) -> [HostRun] {
        var places = [(header.snapshotsOffset, snapshots.byteCount)]
        if let directory = extensions.bitmapDirectory { places.append(directory) }
        for entry in snapshots.entries { places.append((entry.l1Offset, UInt64(entry.l1Size) * 8)) }
        var runs: [HostRun] = []
        for place in places where place.1 > 0 {
            guard place.0 >= header.clusterSize,
                Header.isPlace(place.0, bytes: place.1, alignedTo: header.clusterSize)
            else { throw ImageError(.corrupt, "a table of a snapshot or of bitmaps is at an impossible place") }
            runs.append(HostRun(file: .image, offset: HostOffset(place.0), length: place.1))
        }
        return runs
    }
}
