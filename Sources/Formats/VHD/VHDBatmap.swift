internal import Bytes
internal import Storage

/// XenServer's map of full blocks, behind the block allocation table. It only saves looking at bitmaps, so reading does
/// without it; but its header says whether the image is encrypted, and a writer must leave every mark true.
///
/// The map itself is never changed. A mark stays true as long as no sector bit of a marked block is cleared, and a block
/// that has a mark and is allocated anew gets all of its sectors at once.
struct VHDBatmap: BitwiseCopyable, Sendable {
    /// Where its header of 512 bytes is, in bytes.
    var headerOffset: UInt64
    /// Where the map is, in bytes.
    var offset: UInt64
    /// The bytes of the map; 0 where it does not lie in the file, so that nobody can rely on it.
    var byteCount: UInt64
    /// The sum of the map, as the header has it.
    var checksum: UInt32
    /// The version: XenServer's first one summed otherwise.
    var version: UInt32

    /// The batmap of an image that has one. Throws `.unsupported` when that says that the image is encrypted, and `.io`.
    static func find(
        _ storage: any Storage, _ footer: VHDFooter, _ header: VHDDynamicHeader
    ) throws(ImageError) -> VHDBatmap? {
        // Another writer may have put a block's bitmap here, whose bits a guest can choose.
        guard footer.creator == VHDCreator.xenServer else { return nil }
        let tableEnd = header.tableOffset.checkedAdding(UInt64(header.maxTableEntries) * 4)
        guard let offset = tableEnd?.roundedUp(toPowerOfTwo: 512), storage.holds(HostOffset(offset), count: 512) else {
            return nil
        }
        let bytes = try storage.bytes(at: HostOffset(offset), count: 512)
        let span = bytes.span.bytes
        guard span.hasASCII("tdbatmap") else { return nil }
        guard span.byte(at: 29) == 0 else {
            throw ImageError(
                .unsupported, "the image is encrypted by XenServer; decrypt it there first", at: offset)
        }
        let map: UInt64 = span.big(at: 8)
        let length = UInt64(span.big(UInt32.self, at: 16)) * 512
        return VHDBatmap(
            headerOffset: offset, offset: map, byteCount: storage.holds(HostOffset(map), count: length) ? length : 0,
            checksum: span.big(at: 24), version: span.big(at: 20))
    }

    /// What of the file it occupies.
    var parts: [VHDMetadataPart] {
        [VHDMetadataPart(at: headerOffset, count: 512)]
            + (byteCount > 0 ? [VHDMetadataPart(at: offset, count: byteCount)] : [])
    }

    /// Where the mark of `block` is; nil where the map is too short to have one.
    func markOffset(_ block: UInt64) -> HostOffset? {
        block / 8 < byteCount ? HostOffset(offset + block / 8) : nil
    }
}
