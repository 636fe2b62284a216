internal import Bytes
internal import Storage

/// What of an image's damage can be repaired without a doubt, and how.
struct VHDXDamage {
    /// The slot of the header whose copy is damaged (1 or 2).
    var header: Int?
    /// How many changes the log holds that were not applied; nil where it is not in use.
    var logChanges: Int?
    /// The good region table, the copy to write it to, and what is wrong with that one.
    var regionTable: (good: [UInt8], copy: Int, what: String)?
    /// The size without unused space at the end of the file, in bytes; nil where there is none.
    var trimmedSize: UInt64?

    /// Whether there is anything to do. A log in use that changes nothing is no damage.
    private var isEmpty: Bool {
        header == nil && regionTable == nil && trimmedSize == nil && (logChanges ?? 0) == 0
    }

    /// Repairs everything in an image that can be read. Throws what writing throws; whatever was done until then is whole,
    /// and the same repair can be done again.
    func repair(_ storage: any Storage, _ foundation: VHDXFoundation) throws(ImageError) {
        guard !isEmpty else { return }
        // Before anything else in the file changes, the header has to say that somebody writes; and twice, which writes
        // the damaged copy first.
        var headers = try Headers(storage, foundation.header)
        headers.set(VHDXEncode.randomGUID(), at: Headers.fileWrite)
        try headers.write()
        try headers.write()
        if let replay = foundation.replay { try empty(replay, storage, &headers) }
        if let (good, copy, _) = regionTable {
            // Only the copy is written that no reader uses, so that this needs no log: whatever a power loss leaves of it,
            // the other one counts.
            try storage.write(at: HostOffset(VHDXRegions.places[copy]), good)
            try storage.flush()
        }
        if let trimmedSize {
            try storage.resize(to: trimmedSize)
            try storage.flush()
        }
    }

    /// Brings the file to what its log says and empties the log ([MS-VHDX] 2.3.3). The log stays in force until all of it
    /// is durable in its place; only then may the header stop naming it.
    private func empty(
        _ replay: VHDXReplay, _ storage: any Storage, _ headers: inout Headers
    ) throws(ImageError) {
        let oldSize = storage.size
        if oldSize < replay.size { try storage.resize(to: replay.size) }
        var position: UInt64 = 0
        while position < replay.size {
            let (source, length) = replay.source(at: position, limit: replay.size - position)
            switch source {
            case .file: break
            case .zeros:
                // What the file has grown by reads as zeros already.
                let count = min(position + length, oldSize) - min(position, oldSize)
                if count > 0 { try storage.zero(at: HostOffset(position), count: count) }
            case .log:
                // At most the page of 4 KiB that the log holds in one piece.
                try storage.write(
                    at: HostOffset(position), try replay.bytes(at: HostOffset(position), count: Int(length)))
            }
            position += length
        }
        try storage.flush()
        headers.set(.zero, at: Headers.log)
        try headers.write()
        try headers.write()
    }
}

/// The header as a repair changes it: always the copy that is not in force, durable before the next ([MS-VHDX] 2.2.2.1).
private struct Headers {
    static let fileWrite = 16
    static let log = 48

    private let storage: any Storage
    private var bytes: [UInt8]
    private var slot: Int
    private var sequence: UInt64

    /// Begins with every byte of the copy in force: what is not known here survives. Throws `.io`.
    init(_ storage: any Storage, _ header: VHDXHeader) throws(ImageError) {
        self.storage = storage
        slot = header.slot
        sequence = header.sequence
        bytes = try storage.bytes(at: HostOffset(VHDXHeader.place(slot)), count: VHDXHeader.byteCount)
    }

    mutating func set(_ guid: GUID, at field: Int) { VHDXEncode.put(guid, into: &bytes, at: field) }

    /// Puts the other copy in force; durable when this returns. Throws what writing throws.
    mutating func write() throws(ImageError) {
        guard let next = sequence.checkedAdding(1) else {
            throw ImageError(.unsupported, "the header's sequence number cannot grow any further")
        }
        VHDXEncode.put(next, into: &bytes, at: 8)
        VHDXEncode.seal(&bytes)
        try storage.write(at: HostOffset(VHDXHeader.place(3 - slot)), bytes)
        try storage.flush()
        slot = 3 - slot
        sequence = next
    }
}

extension VHDXCheck {
    /// Repairs what was found, where that is wanted, and reports it. `foundation` is nil where the image cannot be read:
    /// nothing of it is touched then.
    mutating func finish(_ foundation: VHDXFoundation?, repairs: Bool) throws(ImageError) {
        let end = foundation?.view.size ?? storage.size
        var isRepaired = false
        if repairs, let foundation {
            var safe = damage
            // Where an image is wrong in other ways something may still belong to its end.
            if report.corruptions > 0 { safe.trimmedSize = nil }
            try safe.repair(storage, foundation)
            isRepaired = true
        }
        addDamage(fileSize: end, isRepaired)
    }

    private mutating func addDamage(fileSize: UInt64, _ isRepaired: Bool) {
        let mayTrim = report.corruptions == 0
        if let header = damage.header {
            report.add(
                .corruption, "header \(header) is damaged (signature or checksum)", at: VHDXHeader.place(header),
                isRepaired: isRepaired)
        }
        if let (_, copy, what) = damage.regionTable {
            report.add(.corruption, what, at: VHDXRegions.places[copy], isRepaired: isRepaired)
        }
        if let count = damage.logChanges, count > 0 {
            report.add(
                .note, "the log holds \(count) changes that are not applied yet; the check counts them in",
                isRepaired: isRepaired)
        }
        if let size = damage.trimmedSize, size < fileSize {
            let count = (fileSize - size).dividedRoundingUp(by: VHDX.unit)
            report.add(
                .leak, "\(count) MiB at the end of the file belong to nothing", at: size,
                isRepaired: isRepaired && mayTrim, count: count)
        }
    }
}
