internal import Bytes
internal import Storage

/// Opening an image for writing: what must hold beyond what reading asks for, and the recovery of what a crash left.
enum VHDXOpen {
    /// Files up to this size are written, in bytes: 256 TiB, four times the largest disk. It bounds the bitmaps that keep
    /// track of the file's space.
    static let maximumFileBytes: UInt64 = 1 << 48

    /// Opens an image for writing. A log that is in use is replayed into the file; nothing else is changed.
    ///
    /// Throws like an open for reading, and `.readOnly`, `.noSpace`.
    static func open(_ request: OpenRequest) throws(ImageError) -> VHDXDriver {
        let storage = request.storage
        guard storage.isWritable else {
            throw ImageError(.readOnly, "the image file is open for reading only")
        }
        var foundation = try VHDXFoundation(storage)
        try check(foundation)
        // Whatever would keep the image from being read is found before the first byte changes.
        _ = try VHDXDriver(foundation, cacheBytes: 0)
        if let replay = foundation.replay {
            try recover(storage, foundation.header, replay)
            foundation = try VHDXFoundation(storage)
        }
        return try VHDXDriver(foundation, cacheBytes: request.options.cacheBytes, isWritable: true)
    }

    private static func check(_ foundation: VHDXFoundation) throws(ImageError) {
        let header = foundation.header
        guard header.logLength > 0 else {
            throw ImageError(
                .unsupported, "the image has no log, so it cannot be written safely; it can be opened for reading")
        }
        guard foundation.storage.holds(HostOffset(header.logOffset), count: header.logLength) else {
            throw ImageError(.corrupt, "the file ends within its log; it is truncated", at: header.logOffset)
        }
        guard foundation.view.size <= maximumFileBytes else {
            throw ImageError(
                .unsupported, "the file is larger than any that platter writes",
                detail: "\(foundation.view.size) of at most \(maximumFileBytes.counted("byte"))")
        }
    }

    /// Replays the log into the file and empties it ([MS-VHDX] 2.3.3). Cut short anywhere, it is simply done again: the
    /// log stays in force until all that it holds is durable where it belongs. Throws `.noSpace` and `.io`.
    static func recover(
        _ storage: any Storage, _ header: VHDXHeader, _ replay: VHDXReplay
    ) throws(ImageError) {
        var update = try VHDXHeaderUpdate(storage, header)
        // Replay changes the file, and nothing of it may change under an old FileWriteGuid.
        update.renewFileWrite()
        try update.write(to: storage)
        try replay.apply(to: storage)
        // The log must not be left behind before what it holds is durable elsewhere.
        try storage.flush()
        update.setLog(.zero)
        try update.write(to: storage)
        // Once more, so that the other copy no longer names a log that will be overwritten.
        try update.write(to: storage)
    }
}

extension VHDXReplay {
    /// Brings the file to what this view of it shows. Nothing is durable before the next barrier. Throws `.noSpace` and
    /// `.io`.
    func apply(to storage: any Storage) throws(ImageError) {
        if storage.size < size { try storage.resize(to: size) }
        for range in zeroedRanges {
            // What lies past the old end reads as zeros already.
            let end = min(range.end, fileSize)
            if range.start < end { try storage.zero(at: HostOffset(range.start), count: end - range.start) }
        }
        for offset in pageOffsets {
            try storage.write(
                at: HostOffset(offset), try bytes(at: HostOffset(offset), count: Int(VHDXLog.sectorBytes)))
        }
    }
}
