internal import Bytes
internal import Storage

extension QCOW1 {
    /// The backing file as the image records it, or nil for none. The format has no place for the backing file's own
    /// format. Throws `.malformed` and `.io`.
    static func backingReference(
        _ header: Header, in storage: any Storage
    ) throws(ImageError) -> ParentReference? {
        guard header.backingOffset != 0, header.backingLength != 0 else { return nil }
        let place = HostOffset(header.backingOffset)
        guard storage.holds(place, count: UInt64(header.backingLength)) else {
            throw ImageError(.malformed, "the backing file's name lies past the end of the file", at: place.rawValue)
        }
        let name = RecordedName.reading(try storage.bytes(at: place, count: Int(header.backingLength)))
        guard !name.text.isEmpty else { return nil }
        return RecordedName.reference(name, format: nil)
    }
}
