internal import Bytes
internal import Formats
internal import Storage

extension Level {
    /// Copies the bytes from `skip` on of a decoded unit of `file` into `target`.
    ///
    /// A read of a whole unit decodes straight into the caller's memory; a part goes through the cache, for the reader
    /// will want the rest. Throws `.corrupt` and `.io`.
    func decode(
        _ unit: StoredUnit, in file: any Storage, from skip: Int, into target: UnsafeMutableRawBufferPointer,
        _ cache: DecodeCache
    ) throws(ImageError) {
        let decoder = try decoder(at: unit.offset)
        let size = decoder.unitBytes
        guard skip <= size, target.count <= size - skip else {
            throw ImageError(
                .corrupt, "a run reaches past its compressed unit", at: unit.offset.rawValue, file: file.name)
        }
        if let cached = cache.unit(unit) {
            target.copyMemory(from: UnsafeRawBufferPointer(rebasing: cached.bytes[skip..<(skip + target.count)]))
        } else if target.count == size {
            try load(unit, in: file, decoder, into: target)
        } else {
            let decoded = try DecodedUnit(count: size) { (memory) throws(ImageError) in
                try load(unit, in: file, decoder, into: memory)
            }
            target.copyMemory(from: UnsafeRawBufferPointer(rebasing: decoded.bytes[skip..<(skip + target.count)]))
            cache.keep(decoded, as: unit)
        }
    }

    private func load(
        _ unit: StoredUnit, in file: any Storage, _ decoder: any BlockDecoder,
        into memory: UnsafeMutableRawBufferPointer
    ) throws(ImageError) {
        var failure: ImageError?
        // A stored unit is never much longer than a decoded one; what is more was refused by the format.
        withUnsafeTemporaryAllocation(byteCount: Int(unit.length), alignment: 16) { stored in
            do throws(ImageError) {
                let count = try file.read(at: unit.offset, into: stored)
                try decoder.decode(UnsafeRawBufferPointer(rebasing: stored[..<count]), into: memory)
            } catch { failure = error }
        }
        if let failure {
            var placed = failure
            placed.offset = failure.offset ?? unit.offset.rawValue
            throw placed.named(file.name)
        }
    }
}
