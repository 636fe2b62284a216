internal import Bytes
internal import Formats
internal import Storage

extension Disk {
    /// Fills `runs` with the places of its range, which is one of the disk that the layers show (not of the window) and
    /// lies within it. Stops early when the list is full. Throws only when not even the first byte has an answer: damage
    /// further on ends the list, and is thrown when it is asked for.
    func resolve(_ detail: MapDetail, into runs: inout RunList) throws(ImageError) {
        do throws(ImageError) {
            _ = try resolve(detail, runs.range, layer: 0, into: &runs)
        } catch {
            guard runs.count > 0 else { throw error }
        }
    }

    /// Adds the places of `range` as `layer` and those below it show it. False when the list is full.
    private func resolve(
        _ detail: MapDetail, _ range: ByteRange, layer: Int, into runs: inout RunList
    ) throws(ImageError) -> Bool {
        var rest = range
        while !rest.isEmpty {
            var extents = ExtentList(for: rest)
            do throws(ImageError) {
                try layers[layer].driver.map(detail, into: &extents)
                guard extents.count > 0 else {
                    throw ImageError(.corrupt, "the metadata gives no place for a part of the disk", at: rest.lower)
                }
            } catch { throw error.named(layers[layer].path) }
            var position = rest.lower
            for index in 0..<extents.count {
                let extent = extents[index]
                let part = ByteRange(position, to: position + extent.length)
                guard try add(extent.place, part, detail, layer: layer, into: &runs) else { return false }
                position = part.upper
            }
            rest = rest.dropping(first: extents.covered)
        }
        return true
    }

    private func add(
        _ place: Extent.Place, _ part: ByteRange, _ detail: MapDetail, layer: Int, into runs: inout RunList
    ) throws(ImageError) -> Bool {
        let depth = UInt16(truncatingIfNeeded: layer)
        switch place {
        case .data(let slot, let offset):
            let file = layers[layer].firstFile &+ slot.rawValue
            return runs.append(.host(file: file, offset: offset), length: part.length, layer: depth)
        case .encoded(let slot, let offset, let length, let skip):
            let file = layers[layer].firstFile &+ slot.rawValue
            let source = DiskRun.Source.encoded(file: file, offset: offset, length: length, skip: skip)
            return runs.append(source, length: part.length, layer: depth)
        case .zero:
            return runs.append(.zero, length: part.length, layer: depth)
        case .hole:
            guard layer + 1 < layers.count else { return runs.append(.hole, length: part.length, layer: depth) }
            let below = part.clipped(to: layers[layer + 1].shape.virtualSize)
            guard try resolve(detail, below, layer: layer + 1, into: &runs) else { return false }
            return runs.append(.hole, length: part.length - below.length, layer: depth)
        }
    }
}
