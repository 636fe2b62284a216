internal import Bytes
internal import Storage

/// XenServer's map of full blocks, behind the block allocation table. It only saves looking at bitmaps, so reading does
/// without it; but its header says whether the image is encrypted.
enum VHDBatmap {
    /// Whether the image has a batmap. Throws `.unsupported` when that says that the image is encrypted, and `.io`.
    static func isPresent(
        _ storage: any Storage, _ footer: VHDFooter, _ header: VHDDynamicHeader
    ) throws(ImageError) -> Bool {
        // Another writer may have put a block's bitmap here, whose bits a guest can choose.
        guard footer.creator == VHDCreator.xenServer else { return false }
        let tableEnd = header.tableOffset.checkedAdding(UInt64(header.maxTableEntries) * 4)
        guard let offset = tableEnd?.roundedUp(toPowerOfTwo: 512), storage.holds(HostOffset(offset), count: 512) else {
            return false
        }
        let bytes = try storage.bytes(at: HostOffset(offset), count: 512)
        let span = bytes.span.bytes
        guard span.hasASCII("tdbatmap") else { return false }
        guard span.byte(at: 29) == 0 else {
            throw ImageError(
                .unsupported, "the image is encrypted by XenServer; decrypt it there first", at: offset)
        }
        return true
    }
}
