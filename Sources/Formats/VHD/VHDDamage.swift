internal import Bytes
package import Storage

extension VHD {
    package static var nameEndings: [String] { ["vhd", "avhd", "vpc"] }

    package static func damage(
        _ start: FileStart, _ storage: any Storage, isNamed: Bool
    ) throws(ImageError) -> ImageError? {
        // A dynamic image begins with a copy of its footer, which would have been used if it were good.
        let hasCopy = start.has("conectix")
        guard isNamed || hasCopy else { return nil }
        if storage.size < 2 * UInt64(VHDFooter.byteCount) {
            return ImageError(.malformed, "a VHD that is cut off", detail: "after \(storage.size) bytes")
        }
        if let end = try footerBeforeEnd(storage) {
            return ImageError(
                .malformed,
                "the VHD footer is not at the end of the file: something was appended; cut a copy of the file behind it",
                detail: "truncate -s \(end)")
        }
        if hasCopy {
            return ImageError(
                .malformed,
                "a VHD without the footer at its end, and what stands in for that at its beginning is damaged: truncated?"
            )
        }
        if start.zeros >= VHDFooter.byteCount, try endsWithZeros(storage) {
            return ImageError(
                .malformed,
                "named like a VHD, but there is no footer at its end; the beginning of the file is zeros too",
                detail: start.zerosInWords)
        }
        if try endsWithZeros(storage) {
            return ImageError(
                .malformed,
                "named like a VHD, but there is no footer at its end, only zeros: truncated, or not copied whole?")
        }
        return ImageError(.malformed, "named like a VHD, but there is no footer at its end: truncated?")
    }

    /// How much of the end is searched, in bytes: what programs append is small.
    private static let searched: UInt64 = 1 << 20

    /// Returns where a good footer ends that has something behind it.
    private static func footerBeforeEnd(_ storage: any Storage) throws(ImageError) -> UInt64? {
        let count = min(storage.size, searched)
        let base = storage.size - count
        let bytes = try storage.bytes(at: HostOffset(base), count: Int(count))
        let span = bytes.span.bytes
        var place = Int(count) - VHDFooter.byteCount - 1
        while place >= 0 {
            // The copy at byte 0 is no footer that has something behind it.
            if base + UInt64(place) > 0, span.hasASCII("conectix", at: place),
                (try? VHDFooter(span.extracting(place..<place + VHDFooter.byteCount), at: 0)) != nil
            {
                return base + UInt64(place + VHDFooter.byteCount)
            }
            place -= 1
        }
        return nil
    }

    private static func endsWithZeros(_ storage: any Storage) throws(ImageError) -> Bool {
        let count = VHDFooter.byteCount
        let bytes = try storage.bytes(at: HostOffset(storage.size - UInt64(count)), count: count)
        return bytes.span.bytes.isZero(at: 0, count: count)
    }
}
