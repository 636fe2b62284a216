internal import Bytes
internal import Storage

extension QCOW2 {
    /// The header extensions and the backing file's name: the rest of the first cluster (QEMU, docs/interop/qcow2,
    /// "Header extensions").
    struct Extensions: Sendable {
        /// The backing file's format, as recorded.
        private(set) var backingFormat: String?
        /// The name of the external data file, as recorded.
        private(set) var dataFileName: String?
        /// The backing file's name, as recorded; nil where there is none.
        private(set) var backingName: RecordedName.Reading?
        /// What the image calls its feature bits.
        private(set) var featureNames = FeatureNames()
        /// How many persistent bitmaps there are.
        private(set) var bitmapCount: UInt32 = 0
        /// Where their directory is, and its length; nil where there is none that counts.
        private(set) var bitmapDirectory: (offset: UInt64, bytes: UInt64)?

        private enum Kind {
            static let end: UInt32 = 0
            static let backingFormat: UInt32 = 0xE279_2ACA
            static let featureNames: UInt32 = 0x6803_F857
            static let bitmaps: UInt32 = 0x2385_2875
            static let dataFile: UInt32 = 0x4441_5441
        }

        /// Reads the first cluster, as far as the file goes, and everything in it that platter knows. Throws
        /// `.malformed` and `.io`.
        init(reading storage: any Storage, _ header: Header) throws(ImageError) {
            let count = Int(min(storage.size, header.clusterSize))
            let bytes = try storage.bytes(at: HostOffset(0), count: count)
            let span = bytes.span.bytes
            try readExtensions(span, header)
            try readBackingName(span, header)
        }

        private mutating func readExtensions(_ span: RawSpan, _ header: Header) throws(ImageError) {
            // The backing file's name ends the area, wherever it is.
            let limit = header.backingOffset == 0 ? span.byteCount : min(span.byteCount, Int(header.backingOffset))
            var position = Int(header.headerLength)
            var seen: Set<UInt32> = []
            while limit - position >= 8 {
                let kind: UInt32 = span.big(at: position)
                let length = Int(span.big(UInt32.self, at: position + 4))
                position += 8
                guard kind != Kind.end else { return }
                guard length <= limit - position else {
                    throw ImageError(
                        .malformed, "a header extension is longer than the header", at: UInt64(position - 8))
                }
                try read(
                    kind, span.extracting(position..<(position + length)), header, isFirst: seen.insert(kind).inserted)
                position += min((length + 7) & ~7, limit - position)
            }
            // What is left of less than a record can only be the padding before the backing file's name.
            guard position >= limit || span.isZero(at: position, count: limit - position) else {
                throw ImageError(
                    .malformed, "a header extension runs into the backing file's name", at: UInt64(position))
            }
        }

        private mutating func read(
            _ kind: UInt32, _ data: RawSpan, _ header: Header, isFirst: Bool
        ) throws(ImageError) {
            switch kind {
            case Kind.backingFormat, Kind.featureNames, Kind.bitmaps, Kind.dataFile:
                guard isFirst else { throw ImageError(.malformed, "a header extension occurs twice") }
            default: return
            }
            switch kind {
            case Kind.backingFormat: backingFormat = RecordedName.reading(data.copy(at: 0, count: data.byteCount)).text
            case Kind.dataFile: dataFileName = try RecordedName.text(data.copy(at: 0, count: data.byteCount))
            case Kind.featureNames: readFeatureNames(data)
            default: try readBitmaps(data, header)
            }
        }

        /// Records of 48 bytes: the set, the bit, and a name padded with zeros.
        private mutating func readFeatureNames(_ data: RawSpan) {
            var position = 0
            while data.byteCount - position >= 48 {
                let name = data.copy(at: position + 2, count: 46).prefix { $0 != 0 }
                featureNames.add(
                    String(decoding: name, as: UTF8.self), set: data.byte(at: position),
                    bit: data.byte(at: position + 1))
                position += 48
            }
        }

        /// The bitmaps count only while the autoclear bit vouches for them; then QEMU's limits apply.
        private mutating func readBitmaps(_ data: RawSpan, _ header: Header) throws(ImageError) {
            guard header.autoclear & 1 == 1 else { return }
            guard data.byteCount >= 24 else { throw ImageError(.malformed, "the bitmaps extension is cut off") }
            bitmapCount = data.big(at: 0)
            let bytes: UInt64 = data.big(at: 8)
            let offset: UInt64 = data.big(at: 16)
            guard (1...65535).contains(bitmapCount), bytes <= 64 << 20 else {
                throw ImageError(.malformed, "the bitmap directory is larger than the format allows")
            }
            guard Header.isPlace(offset, bytes: bytes, alignedTo: header.clusterSize) else {
                throw ImageError(.malformed, "the bitmap directory is at an impossible place", at: offset)
            }
            bitmapDirectory = (offset, bytes)
        }

        private mutating func readBackingName(_ span: RawSpan, _ header: Header) throws(ImageError) {
            guard header.backingOffset != 0, header.backingLength != 0 else { return }
            let start = Int(header.backingOffset)
            let length = Int(header.backingLength)
            guard start <= span.byteCount, length <= span.byteCount - start else {
                throw ImageError(.malformed, "the backing file's name is cut off", at: header.backingOffset)
            }
            let name = RecordedName.reading(span.copy(at: start, count: length))
            backingName = name.text.isEmpty ? nil : name
        }
    }
}
