internal import Bytes
internal import Formats
internal import Storage

/// A layer as reads go through it: a list linked downwards.
///
/// What a read of one layer needs is a constant of an object that the caller holds already, so nothing is retained or
/// released on the way, where an array of layers would retain what it hands out. A step down costs one retain.
final class Level: Sendable {
    /// How many levels are above this one.
    let depth: UInt16
    /// The level that answers for holes.
    let below: Level?
    /// The size of this layer's disk in bytes.
    let size: UInt64

    private let driver: any FormatDriver
    private let image: any Storage
    private let files: [any Storage]
    private let firstFile: UInt16
    private let path: String
    /// Whether what answers for holes could not be opened.
    private let isCut: Bool

    /// The list of `layers`, which are not empty, the topmost first; `depth` levels are above it.
    init(_ layers: ArraySlice<Layer>, depth: UInt16 = 0) {
        let layer = layers[layers.startIndex]
        let rest = layers.dropFirst()
        self.depth = depth
        below = rest.isEmpty ? nil : Level(rest, depth: depth + 1)
        size = layer.shape.virtualSize
        driver = layer.driver
        files = driver.files
        image = files[0]
        firstFile = layer.firstFile
        path = layer.path
        isCut = layer.missingParent != nil
    }

    // MARK: - Where

    /// Adds the places of `range`, which lies within this layer's disk, as this layer and those below it show it. False
    /// when the list is full, or the walk has become long. Throws `.corrupt` and `.io`.
    func resolve(_ detail: MapDetail, _ range: ByteRange, into runs: inout RunList) throws(ImageError) -> Bool {
        var rest = range
        while !rest.isEmpty {
            var extents = ExtentList(for: rest)
            do throws(ImageError) {
                try driver.map(detail, into: &extents)
            } catch { throw error.named(path) }
            guard extents.count > 0 else {
                throw ImageError(
                    .corrupt, "the metadata gives no place for a part of the disk", at: rest.lower, file: path)
            }
            var position = rest.lower
            for index in 0..<extents.count {
                let extent = extents[index]
                let part = ByteRange(position, to: position + extent.length)
                guard try add(extent.place, part, detail, into: &runs) else { return false }
                position = part.upper
            }
            rest = rest.dropping(first: extents.covered)
            // An answer that stops early although it has room comes from a long walk.
            guard rest.isEmpty || extents.count == ExtentList.capacity || runs.mayWalkOn() else { return false }
        }
        return true
    }

    private func add(
        _ place: Extent.Place, _ part: ByteRange, _ detail: MapDetail, into runs: inout RunList
    ) throws(ImageError) -> Bool {
        switch place {
        case .data(let file, let offset):
            return runs.append(.host(file: file, offset: offset), length: part.length, layer: depth)
        case .encoded(let file, let offset, let length, let skip):
            let source = DiskRun.Source.encoded(file: file, offset: offset, length: length, skip: skip)
            return runs.append(source, length: part.length, layer: depth)
        case .zero:
            return runs.append(.zero, length: part.length, layer: depth)
        case .hole:
            guard let below else {
                if isCut, case .placement = detail { throw .partOfMissingParent(path) }
                return runs.append(.hole, length: part.length, layer: depth)
            }
            let shown = part.clipped(to: below.size)
            guard try below.resolve(detail, shown, into: &runs) else { return false }
            return runs.append(.hole, length: part.length - shown.length, layer: depth)
        }
    }

    // MARK: - What

    /// Fills `target` with the bytes of a run that this level or one below it answered. Throws `.corrupt` and `.io`.
    func copy(
        _ run: DiskRun, into target: UnsafeMutableRawBufferPointer, _ decoded: DecodeCache
    ) throws(ImageError) {
        guard run.layer == depth else { return try copyBelow(run, into: target, decoded) }
        switch run.source {
        case .host(let file, let offset):
            let count =
                file.rawValue == 0
                ? try image.read(at: offset, into: target)
                : try files[Int(file.rawValue)].read(at: offset, into: target)
            guard count == target.count else { throw shortFile(file, at: offset.rawValue + UInt64(count)) }
        case .zero, .hole:
            target.initializeMemory(as: UInt8.self, repeating: 0)
        case .encoded(let file, let offset, let length, let skip):
            let unit = StoredUnit(file: firstFile &+ file.rawValue, offset: offset, length: length)
            try decode(unit, in: files[Int(file.rawValue)], from: Int(skip), into: target, decoded)
        }
    }

    /// The part of `copy` that is not for this level.
    private func copyBelow(
        _ run: DiskRun, into target: UnsafeMutableRawBufferPointer, _ decoded: DecodeCache
    ) throws(ImageError) {
        guard let below else { throw ImageError(.corrupt, "a run of a layer that the disk does not have") }
        try below.copy(run, into: target, decoded)
    }

    /// Moves up to `count` bytes, from `skip` on, of a run of a host file into a pipe, and says how many; nil where the
    /// file cannot be spliced. Throws `.corrupt` at the end of the file, and `.io`.
    func splice(
        _ run: DiskRun, from skip: UInt64, count: Int, into pipe: PipeWriter
    ) throws(ImageError) -> Int? {
        if run.layer != depth, let below { return try below.splice(run, from: skip, count: count, into: pipe) }
        guard case .host(let file, let start) = run.source else { return nil }
        let offset = HostOffset(start.rawValue + skip)
        let moved =
            file.rawValue == 0
            ? try image.splice(from: offset, count: count, into: pipe)
            : try files[Int(file.rawValue)].splice(from: offset, count: count, into: pipe)
        if moved == 0 { throw shortFile(file, at: offset.rawValue) }
        return moved
    }

    private func shortFile(_ file: FileSlot, at offset: UInt64) -> ImageError {
        ImageError(
            .corrupt, "the file has become shorter while it was open", at: offset, file: files[Int(file.rawValue)].name)
    }

    /// What decodes this layer's compressed units. Throws `.corrupt` where it has none.
    func decoder(at offset: HostOffset) throws(ImageError) -> any BlockDecoder {
        guard let decoder = driver.decoder else {
            throw ImageError(
                .corrupt, "a compressed run in an image without compression", at: offset.rawValue, file: path)
        }
        return decoder
    }
}

extension ImageError {
    /// A read of what only the parent has, in a disk that was opened without it.
    fileprivate static func partOfMissingParent(_ path: String) -> ImageError {
        ImageError(.missing, "this part of the disk lies in the parent, which could not be opened", file: path)
    }
}
