internal import Bytes
internal import Storage

/// Files that hold a disk in a way that platter does not read: images of other programs, compressed files, archives. A user
/// who meets one is told what it is and which program turns it into something that can be served.
struct KnownFormat: Sendable {
    /// What sort of file it is.
    enum Sort: Sendable {
        /// Another program's disk image. No guest begins its own disk with one.
        case image
        /// A compressed file or an archive. A guest may keep one on its disk without any filesystem, as on a tape.
        case packed
    }

    /// Its name for a person.
    let name: String
    let sort: Sort
    /// What is said of a file of this format.
    let what: StaticString
    /// The command that is the way out.
    let command: String

    /// The refusal.
    var refusal: ImageError { ImageError(.unsupported, what, detail: command) }

    private init(_ name: String, _ sort: Sort, _ what: StaticString, _ command: String) {
        (self.name, self.sort, self.what, self.command) = (name, sort, what, command)
    }

    /// The format of the file `name` that begins with `start`, or nil. Throws `.io`.
    static func find(
        _ start: FileStart, _ storage: any Storage, name: FileName
    ) throws(ImageError) -> KnownFormat? {
        if let entry = images.first(where: { start.begins(with: $0.magic, at: $0.offset) }) {
            return KnownFormat(entry.name, .image, entry.what, entry.command)
        }
        if try hasMacTrailer(storage) {
            return KnownFormat("DMG", .image, "a disk image of macOS (DMG), which is not read; convert it", convert)
        }
        return compressed(start, name) ?? archive(start, name)
    }

    // MARK: - Disk images

    private struct Image: Sendable {
        var magic: [UInt8]
        var offset = 0
        var name: String
        var what: StaticString
        var command = convert
    }

    private static let convert = "qemu-img convert -O qcow2 FILE NEW.qcow2"

    private static let images: [Image] = [
        Image(magic: Array("KDMV".utf8), name: "VMDK", what: "a VMDK image, which is not read; convert it"),
        Image(magic: Array("COWD".utf8), name: "VMDK", what: "a VMDK image, which is not read; convert it"),
        Image(
            magic: [0xBE, 0xBA, 0xFE, 0xCA, 0, 0, 0, 0], name: "VMDK",
            what: "a VMDK image, which is not read; convert it"),
        Image(
            magic: Array("# Disk DescriptorFile".utf8), name: "VMDK descriptor",
            what: "the description of a VMDK image, which is not read; convert that"),
        Image(magic: Array("<<< ".utf8), name: "VDI", what: "a VDI image of VirtualBox, which is not read; convert it"),
        Image(
            magic: [0x7F, 0x10, 0xDA, 0xBE], offset: 64, name: "VDI",
            what: "a VDI image of VirtualBox, which is not read; convert it"),
        Image(magic: Array("QED\0".utf8), name: "QED", what: "a QED image, which is not read; convert it"),
        Image(
            magic: Array("WithoutFreeSpace".utf8), name: "Parallels",
            what: "an image of Parallels, which is not read; convert it"),
        Image(
            magic: Array("WithouFreSpacExt".utf8), name: "Parallels",
            what: "an image of Parallels, which is not read; convert it"),
        Image(
            magic: Array("Bochs Virtual HD Image".utf8), name: "Bochs",
            what: "an image of Bochs, which is not read; convert it"),
        Image(
            magic: Array("EVF\u{09}\r\n".utf8), name: "EWF",
            what: "an EWF image (E01), which is not read; mount it with ewfmount and serve what that shows",
            command: "ewfmount FILE DIRECTORY"),
        Image(
            magic: Array("EVF2\r\n".utf8), name: "EWF",
            what: "an EWF image (E01), which is not read; mount it with ewfmount and serve what that shows",
            command: "ewfmount FILE DIRECTORY"),
        Image(
            magic: Array("AFF10\r\n".utf8), name: "AFF", what: "an AFF image, which is not read; convert it",
            command: "affconvert -r FILE"),
        Image(
            magic: [0x3A, 0xFF, 0x26, 0xED], name: "Android sparse",
            what: "a sparse image of Android, which is not read; convert it", command: "simg2img FILE NEW.raw"),
    ]

    /// Returns whether the file ends with the trailer of a DMG.
    private static func hasMacTrailer(_ storage: any Storage) throws(ImageError) -> Bool {
        guard storage.size >= 512 else { return false }
        let trailer = try storage.bytes(at: .init(storage.size - 512), count: 8)
        return trailer == Array("koly".utf8) + [0, 0, 0, 4]
    }

    // MARK: - Compressed files

    private struct Compression: Sendable {
        var magic: [UInt8]
        var name: String
        var what: StaticString
        var program: String
        var endings: [String]
    }

    private static let compressions: [Compression] = [
        Compression(
            magic: [0x1F, 0x8B, 8], name: "gzip", what: "compressed with gzip; unpack it first", program: "gzip",
            endings: ["gz", "tgz"]),
        Compression(
            magic: [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0], name: "xz", what: "compressed with xz; unpack it first",
            program: "xz", endings: ["xz", "txz"]),
        Compression(
            magic: [0x28, 0xB5, 0x2F, 0xFD], name: "zstd", what: "compressed with zstd; unpack it first",
            program: "zstd", endings: ["zst", "tzst"]),
        Compression(
            magic: Array("BZh".utf8), name: "bzip2", what: "compressed with bzip2; unpack it first", program: "bzip2",
            endings: ["bz2", "tbz2", "tbz"]),
        Compression(
            magic: [4, 0x22, 0x4D, 0x18], name: "lz4", what: "compressed with lz4; unpack it first", program: "lz4",
            endings: ["lz4"]),
        Compression(
            magic: Array("LZIP".utf8), name: "lzip", what: "compressed with lzip; unpack it first", program: "lzip",
            endings: ["lz"]),
        Compression(
            magic: [0x89, 0x4C, 0x5A, 0x4F, 0, 0x0D, 0x0A, 0x1A, 0x0A], name: "lzop",
            what: "compressed with lzop; unpack it first", program: "lzop", endings: ["lzo"]),
        Compression(
            magic: [0x5D, 0, 0], name: "lzma", what: "compressed with lzma; unpack it first", program: "xz",
            endings: ["lzma"]),
    ]

    private static func compressed(_ start: FileStart, _ name: FileName) -> KnownFormat? {
        guard let entry = compressions.first(where: { start.begins(with: $0.magic) }) else { return nil }
        // Two short magics begin other things too.
        if entry.name == "bzip2", !start.begins(with: Array("1AY&SY".utf8), at: 4) { return nil }
        if entry.name == "lzma", !name.ends(with: entry.endings) { return nil }
        return KnownFormat(entry.name, .packed, entry.what, command(entry, name))
    }

    /// The programs unpack what has their ending, and only read what has not.
    private static func command(_ entry: Compression, _ name: FileName) -> String {
        let last = entry.endings.filter { $0.hasPrefix("t") } + entry.endings.map { "tar.\($0)" }
        if name.ends(with: last) { return "tar -xf FILE" }
        return name.ends(with: entry.endings) ? "\(entry.program) -d FILE" : "\(entry.program) -dc <FILE >NEW"
    }

    // MARK: - Archives

    private static func archive(_ start: FileStart, _ name: FileName) -> KnownFormat? {
        if start.has("ustar", at: 257) { return tar(start, name) }
        guard let entry = archives.first(where: { start.begins(with: $0.magic) }) else { return nil }
        return KnownFormat(entry.name, .packed, entry.what, entry.command)
    }

    /// An appliance of VirtualBox or VMware is a tar that begins with its description.
    private static func tar(_ start: FileStart, _ name: FileName) -> KnownFormat {
        let first = FileName(start.bytes.prefix { $0 != 0 })
        guard name.ends(with: ["ova"]) || first.ends(with: ["ovf"]) else {
            return KnownFormat("tar", .packed, "a tar archive; unpack it first", "tar -xf FILE")
        }
        return KnownFormat(
            "OVA", .packed, "an appliance (OVA), which is a tar archive; unpack it and convert the disk in it",
            "tar -xf FILE; qemu-img convert -O qcow2 DISK.vmdk NEW.qcow2")
    }

    private struct Archive: Sendable {
        var magic: [UInt8]
        var name: String
        var what: StaticString
        var command: String
    }

    private static let archives: [Archive] = [
        Archive(
            magic: [0x50, 0x4B, 3, 4], name: "zip", what: "a zip archive; unpack it first", command: "unzip FILE"),
        Archive(
            magic: [0x37, 0x7A, 0xBC, 0xAF, 0x27, 0x1C], name: "7z", what: "a 7z archive; unpack it first",
            command: "7z x FILE"),
        Archive(
            magic: Array("Rar!\u{1A}\u{07}".utf8), name: "rar", what: "a rar archive; unpack it first",
            command: "unrar x FILE"),
        Archive(
            magic: Array("VMA\0".utf8), name: "VMA", what: "a backup of Proxmox (VMA); extract it first",
            command: "vma extract FILE DIRECTORY"),
        Archive(
            magic: Array("MSWIM\0\0\0".utf8), name: "WIM",
            what: "a Windows image (WIM), which holds files and no disk; extract it with wimlib",
            command: "wimapply FILE DIRECTORY"),
        Archive(
            magic: Array("URBACKUP COMPRESSED FILE".utf8), name: "UrBackup",
            what: "compressed by UrBackup; unpack it first", command: "urbackupsrv decompress-file -f FILE"),
        Archive(
            magic: Array("partclone-image".utf8), name: "partclone", what: "a backup of partclone; restore it first",
            command: "partclone.restore -C -s FILE -O NEW.raw"),
    ]
}
