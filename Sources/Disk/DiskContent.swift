internal import Bytes
internal import Storage

/// What a disk without partitions holds, recognised by its first 4 KiB, for the words that say why none are shown.
/// Nothing is decided by it.
enum DiskContent {
    /// A signature at a place of the disk, and what has it there.
    private static let signatures: [(offset: Int, bytes: [UInt8], name: String)] = [
        (3, Array("NTFS    ".utf8), "an NTFS filesystem"), (3, Array("EXFAT   ".utf8), "an exFAT filesystem"),
        (3, Array("-FVE-FS-".utf8), "a BitLocker volume"), (82, Array("FAT32   ".utf8), "a FAT filesystem"),
        (54, Array("FAT".utf8), "a FAT filesystem"), (0, Array("XFSB".utf8), "an XFS filesystem"),
        (0, Array("LUKS".utf8) + [0xBA, 0xBE], "a LUKS volume"),
        (512, Array("LABELONE".utf8), "an LVM physical volume"),
        (1080, [0x53, 0xEF], "an ext2, ext3 or ext4 filesystem"), (4086, Array("SWAPSPACE2".utf8), "swap space"),
    ]

    /// The name of what the whole disk is, with its article; nil where it is not recognised. Throws what reading throws.
    static func name(of disk: Disk) throws(ImageError) -> String? {
        let bytes = try disk.bytes(at: 0, count: Int(min(disk.size, 4096)))
        for signature in signatures {
            let end = signature.offset + signature.bytes.count
            if end <= bytes.count, bytes[signature.offset..<end].elementsEqual(signature.bytes) {
                return signature.name
            }
        }
        return nil
    }
}
