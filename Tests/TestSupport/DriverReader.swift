package import Bytes
package import Formats
package import Storage

/// The simplest reader there can be over a driver and its parents: the reference for everything that reads faster.
///
/// It keeps nothing, shares nothing and takes one run at a time.
package final class DriverReader: Sendable {
    /// The layer that is asked first.
    package let driver: any FormatDriver
    /// What answers for its holes.
    package let parent: DriverReader?

    /// Reads `driver`, and where it is silent `parent`.
    package init(_ driver: any FormatDriver, parent: DriverReader? = nil) {
        self.driver = driver
        self.parent = parent
    }

    /// The size of the disk in bytes.
    package var size: UInt64 { driver.shape.virtualSize }

    /// What a run of the disk consists of, below the layers.
    package enum Piece {
        /// So many zero bytes.
        case zeros(UInt64)
        /// Bytes, at most 1 MiB of them.
        case bytes(UnsafeRawBufferPointer)
    }

    /// Gives the content of `range` in pieces, in order. Throws what the drivers and the files throw.
    package func forEachPiece(in range: ByteRange, _ body: (Piece) throws -> Void) throws {
        var rest = range.clipped(to: size)
        while !rest.isEmpty {
            var runs = ExtentList(for: rest)
            try driver.map(.placement, into: &runs)
            guard runs.covered > 0 else { throw ContractViolation("map covered nothing of \(rest)") }
            for index in 0..<runs.count {
                let run = rest.keeping(first: runs[index].length)
                try forEachPiece(of: runs[index].place, in: run, body)
                rest = rest.dropping(first: runs[index].length)
            }
        }
        let beyond = range.length - range.clipped(to: size).length
        if beyond > 0 { try body(.zeros(beyond)) }
    }

    private func forEachPiece(of place: Extent.Place, in run: ByteRange, _ body: (Piece) throws -> Void) throws {
        switch place {
        case .zero: try body(.zeros(run.length))
        case .hole:
            if let parent { try parent.forEachPiece(in: run, body) } else { try body(.zeros(run.length)) }
        case .data(let slot, let offset):
            let file = try file(slot)
            var done: UInt64 = 0
            while done < run.length {
                let count = Int(min(run.length - done, 1 << 20))
                let bytes = try file.bytes(at: HostOffset(offset.rawValue + done), count: count)
                try bytes.withUnsafeBytes { try body(.bytes($0)) }
                done += UInt64(count)
            }
        case .encoded(let slot, let offset, let length, let skip):
            let unit = try decode(try file(slot), offset, Int(length))
            guard UInt64(skip) + run.length <= UInt64(unit.count) else {
                throw ContractViolation("an encoded run reaches past its unit in \(run)")
            }
            try unit.withUnsafeBytes {
                try body(.bytes(UnsafeRawBufferPointer(rebasing: $0[Int(skip)..<(Int(skip) + Int(run.length))])))
            }
        }
    }

    private func file(_ slot: FileSlot) throws -> any Storage {
        guard driver.files.indices.contains(Int(slot.rawValue)) else {
            throw ContractViolation("a run in file \(slot.rawValue) of \(driver.files.count)")
        }
        return driver.files[Int(slot.rawValue)]
    }

    private func decode(_ file: any Storage, _ offset: HostOffset, _ length: Int) throws -> [UInt8] {
        guard let decoder = driver.decoder else { throw ContractViolation("an encoded run, and no decoder") }
        // The stored bytes may end with the file.
        let stored = try file.bytes(at: offset, count: Int(min(UInt64(length), file.size - offset.rawValue)))
        var unit = [UInt8](repeating: 0, count: decoder.unitBytes)
        try stored.withUnsafeBytes { input in
            try unit.withUnsafeMutableBytes { output in try decoder.decode(input, into: output) }
        }
        return unit
    }

    /// The bytes of `range`; past the end of the disk they are zeros, as for a child that is larger.
    package func read(_ range: ByteRange) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(range.length))
        var done = 0
        // Memory is copied as a whole: appending to an array goes byte by byte in a debug build.
        try forEachPiece(in: range) { piece in
            switch piece {
            case .zeros(let count): done += Int(count)
            case .bytes(let part):
                bytes.withUnsafeMutableBytes {
                    UnsafeMutableRawBufferPointer(rebasing: $0[done..<(done + part.count)]).copyMemory(from: part)
                }
                done += part.count
            }
        }
        return bytes
    }

    /// The SHA-256 of the whole disk.
    package func hash() throws -> String {
        let hash = try SHA256()
        try forEachPiece(in: ByteRange(0, to: size)) { piece in
            switch piece {
            case .zeros(let count): hash.addZeros(count)
            case .bytes(let part): hash.add(part)
            }
        }
        return hash.finish()
    }
}

/// Opens an image and what it depends on, by name and in the image's own directory only: `Disk` has the real rules of
/// trust, this is enough for tests of the formats.
package enum TestChain {
    /// Opens the image at `path`; `format` wins over its content.
    package static func open(
        _ path: String, format: String? = nil, options: FormatOptions = FormatOptions(), depth: Int = 0
    ) throws -> DriverReader {
        guard depth < 64 else { throw ImageError(.denied, "the chain of parents is too long", file: path) }
        let storage: any Storage = try FileStorage(path: path)
        let type = try format.flatMap(Registry.format(named:)) ?? Registry.detect(storage)
        let directory = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        let request = OpenRequest(storage: storage, companions: Neighbours(directory: directory), options: options)
        let driver = try type.open(request)
        guard let reference = driver.parent else { return DriverReader(driver) }
        let parent = try open(find(reference, in: directory), format: reference.format, depth: depth + 1)
        let identity = parent.driver.shape.identity
        guard reference.identities.isEmpty || identity.map(reference.identities.contains) == true else {
            throw ImageError(.corrupt, "the parent is not the one that the image was made on", file: path)
        }
        return DriverReader(driver, parent: parent)
    }

    private static func find(_ reference: ParentReference, in directory: String) throws -> String {
        for path in reference.paths {
            guard let name = path.text.split(separator: "/").last, !path.text.contains(":") || path.base == .windows
            else { continue }
            let candidate = "\(directory)/\(name)"
            if HostFiles.exists(candidate) { return candidate }
        }
        throw ImageError(.missing, "the parent is not beside the image", detail: reference.paths.first?.text)
    }
}

/// Opens data files in one directory only.
private struct Neighbours: CompanionOpener {
    let directory: String

    func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        guard !name.contains("/"), !name.contains(":"), !name.isEmpty else {
            throw ImageError(.denied, "the data file is not beside the image", detail: name)
        }
        return try FileStorage(path: "\(directory)/\(name)")
    }
}

/// A companion opener for images that need none: it says which name was asked for.
package struct NoCompanions: CompanionOpener {
    /// Makes an opener that refuses.
    package init() {}

    package func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        throw ImageError(.missing, "there is no such data file", detail: name)
    }
}
