internal import Bytes
internal import Storage

/// Which MiB units of the file belong to something: a bit each.
struct VHDXCheckUnits {
    /// How many units the file has, the last one perhaps cut short.
    let count: UInt64

    /// A file of 256 TiB: four times what the largest disk needs, and 32 MiB of bits.
    private static let maximumCount: UInt64 = 1 << 28
    private var words: [UInt64]

    /// Nothing is owned yet. Throws `.unsupported` for a file that no disk needs.
    init(fileSize: UInt64) throws(ImageError) {
        count = fileSize.dividedRoundingUp(by: VHDX.unit)
        guard count <= Self.maximumCount else {
            throw ImageError(
                .unsupported, "the file is longer than 256 TiB, which no VHDX needs", detail: fileSize.counted("byte"))
        }
        words = [UInt64](repeating: 0, count: Int(count.dividedRoundingUp(by: 64)))
    }

    /// Marks the units that `length` bytes at `offset` touch, as far as the file has them; offset + length fits 64 bits.
    /// Returns whether one of them was marked already.
    mutating func take(_ offset: UInt64, _ length: UInt64) -> Bool {
        let end = min((offset + length).dividedRoundingUp(by: VHDX.unit), count)
        var unit = offset / VHDX.unit
        var wasTaken = false
        while unit < end {
            let bit = unit % 64
            let length = min(64 - bit, end - unit)
            let mask = (length == 64 ? UInt64.max : (1 << length) - 1) << bit
            if words[Int(unit / 64)] & mask != 0 { wasTaken = true }
            words[Int(unit / 64)] |= mask
            unit += length
        }
        return wasTaken
    }

    /// The first run of units at `unit` or after it that belong to nothing; nil where there is none.
    func free(from unit: UInt64) -> Range<UInt64>? {
        guard let start = next(from: unit, isTaken: false) else { return nil }
        return start..<(next(from: start, isTaken: true) ?? count)
    }

    /// The unit after the last one that belongs to something.
    var end: UInt64 {
        guard let last = words.lastIndex(where: { $0 != 0 }) else { return 0 }
        return UInt64(last) * 64 + 64 - UInt64(words[last].leadingZeroBitCount)
    }

    private func next(from unit: UInt64, isTaken: Bool) -> UInt64? {
        var position = unit
        while position < count {
            let word = words[Int(position / 64)] ^ (isTaken ? 0 : .max)
            let skipped = word >> (position % 64)
            if skipped != 0 {
                let found = position + UInt64(skipped.trailingZeroBitCount)
                return found < count ? found : nil
            }
            position = (position / 64 + 1) * 64
        }
        return nil
    }
}
