package import Bytes
package import Storage

/// The map of a range that lies in one piece in a host file: what raw disks and fixed images share.
package enum HostHoles {
    /// Adds the rest of the range of `runs`, whose first missing byte lies at `offset` of the file in slot 0. With
    /// `.allocation` the host is asked where its holes are, and those are zeros; with `.placement` all of it is data.
    /// Throws `.io`.
    package static func map(
        _ storage: any Storage, at offset: HostOffset, _ detail: MapDetail, into runs: inout ExtentList
    ) throws(ImageError) {
        var position = offset
        while !runs.remaining.isEmpty {
            let wanted = runs.remaining.length
            guard detail == .allocation else {
                runs.append(.data(file: .image, offset: position), length: wanted)
                return
            }
            let data = try storage.nextData(from: position) ?? HostOffset(UInt64(Int64.max))
            var step = min(wanted, data.rawValue - min(data.rawValue, position.rawValue))
            if step > 0 {
                guard runs.append(.zero, length: step) else { return }
            } else {
                let hole = try storage.nextHole(from: position)
                step = hole > position ? min(wanted, hole.rawValue - position.rawValue) : wanted
                guard runs.append(.data(file: .image, offset: position), length: step) else { return }
            }
            position = HostOffset(position.rawValue + step)
        }
    }

    /// Whether the host holds nothing for the bytes from `start` to `end` of a file, but for what shares a page of 4 KiB
    /// with its neighbours. A host that cannot tell says that it does.
    package static func isHole(_ storage: any Storage, from start: UInt64, to end: UInt64) -> Bool {
        guard let first = start.roundedUp(toPowerOfTwo: 4096), first < end & ~4095 else { return false }
        do throws(ImageError) {
            guard let data = try storage.nextData(from: HostOffset(first)) else { return true }
            return data.rawValue >= end & ~4095
        } catch { return false }
    }
}
