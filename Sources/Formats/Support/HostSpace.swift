internal import Bytes
internal import Storage

/// How much of the host's space a new image takes at once.
enum HostSpace {
    /// The longest piece of zeros written at once, in bytes.
    private static let piece: UInt64 = 1 << 20

    /// Gives `count` bytes from `offset` on space of their own, as zeros; the file grows where it ends before. Where the
    /// host cannot set space aside, zeros are written. Throws `.noSpace`, `.readOnly` and `.io`.
    static func allocate(_ storage: any Storage, at offset: UInt64, count: UInt64) throws(ImageError) {
        if try storage.allocate(at: HostOffset(offset), count: count) { return }
        try writeZeros(storage, at: offset, count: count)
    }

    /// Writes `count` zeros from `offset` on, really: the space is there afterwards whatever the host. Throws `.noSpace`,
    /// `.readOnly` and `.io`.
    static func writeZeros(_ storage: any Storage, at offset: UInt64, count: UInt64) throws(ImageError) {
        let zeros = [UInt8](repeating: 0, count: Int(min(piece, count)))
        var done: UInt64 = 0
        while done < count {
            let step = min(count - done, piece)
            try storage.write(at: HostOffset(offset + done), step == zeros.count ? zeros : Array(zeros[..<Int(step)]))
            done += step
        }
    }
}
