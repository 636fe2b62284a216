internal import Bytes
internal import Storage

/// What an image says about itself, for people.
enum VHDDescription {
    /// The shape of an image without what only sparse ones have.
    static func shape(_ footers: VHDFooters, _ options: FormatOptions, allocationUnit: UInt64) -> DiskShape {
        let footer = footers.footer
        return DiskShape(
            virtualSize: footer.size(options.vhdSize), allocationUnit: allocationUnit, formatName: VHD.name,
            subformat: footer.type.name, identity: footer.uniqueID, remarks: remarkOnSize(footer, options))
    }

    /// A footer has two sizes. The creators that used the geometry are the ones whose disks may have been partitioned
    /// under it, so only there a difference is worth a word.
    private static func remarkOnSize(_ footer: VHDFooter, _ options: FormatOptions) -> [String] {
        guard let geometry = footer.geometrySize, geometry != footer.currentSize,
            [VHDCreator.virtualPC, VHDCreator.qemu].contains(footer.creator)
        else { return [] }
        let other = options.vhdSize == .current ? "chs" : "current"
        return [
            "the current size is \(footer.currentSize.counted("byte")), the geometry's \(geometry); "
                + "\(options.vhdSize == .current ? "the first" : "the second") is used (-o vhd-size=\(other) uses the other)"
        ]
    }

    /// What every footer says.
    static func facts(_ footers: VHDFooters) -> [Fact] {
        let footer = footers.footer
        let version = "\(footer.creatorVersion >> 16).\(footer.creatorVersion & 0xFFFF)"
        return [
            Fact("creator", "creator", .text(characters(footer.creator))),
            Fact("creatorVersion", "creator version", .text(version)),
            Fact("created", "created", .text(date(footer.timestamp))),
            Fact("uniqueId", "unique id", .text(footer.uniqueID.plainText)),
            Fact("currentSize", "current size", .bytes(footer.currentSize)),
            Fact("originalSize", "original size", .bytes(footer.originalSize)),
            Fact("cylinders", "cylinders", .number(UInt64(footer.cylinders))),
            Fact("heads", "heads", .number(UInt64(footer.heads))),
            Fact("sectorsPerTrack", "sectors per track", .number(UInt64(footer.sectorsPerTrack))),
            Fact("savedState", "saved state", .flag(footer.isSavedState)),
            Fact("footerSize", "footer size", .bytes(footers.place == .shortEnd ? 511 : 512)),
        ]
    }

    /// What a dynamic header adds.
    static func facts(_ header: VHDDynamicHeader, hasBatmap: Bool, parent: VHDParent?) -> [Fact] {
        var facts = [
            Fact("blockSize", "block size", .bytes(UInt64(header.blockSize))),
            Fact("tableEntries", "table entries", .number(UInt64(header.maxTableEntries))),
            Fact("batmap", "batmap", .flag(hasBatmap)),
        ]
        if parent != nil { facts.append(Fact("parentUniqueId", "parent unique id", .text(header.parentID.plainText))) }
        return facts
    }

    /// A creator's four characters without the padding; what cannot be printed becomes a question mark.
    private static func characters(_ code: UInt32) -> String {
        let bytes = (0..<4).map { UInt8(truncatingIfNeeded: code >> UInt32((3 - $0) * 8)) }
        let printable = bytes.map { (0x20..<0x7F).contains($0) || $0 == 0 ? $0 : UInt8(ascii: "?") }
        let end = printable.lastIndex { $0 != 0 && $0 != 0x20 } ?? -1
        return String(decoding: printable[...end].map { $0 == 0 ? UInt8(ascii: "?") : $0 }, as: UTF8.self)
    }

    /// A time stamp, in seconds since 2000-01-01, as UTC in the form of ISO 8601.
    static func date(_ timestamp: UInt32) -> String {
        var day = Int(timestamp) / 86400
        let second = Int(timestamp) % 86400
        var year = 2000
        while day >= days(inYear: year) {
            day -= days(inYear: year)
            year += 1
        }
        var month = 1
        while day >= days(inMonth: month, of: year) {
            day -= days(inMonth: month, of: year)
            month += 1
        }
        let time = [second / 3600, second / 60 % 60, second % 60].map(twoDigits).joined(separator: ":")
        return "\(year)-\(twoDigits(month))-\(twoDigits(day + 1))T\(time)Z"
    }

    private static func days(inYear year: Int) -> Int {
        year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 366 : 365
    }

    private static func days(inMonth month: Int, of year: Int) -> Int {
        switch month {
        case 2: days(inYear: year) - 337
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    private static func twoDigits(_ number: Int) -> String { number < 10 ? "0\(number)" : String(number) }
}
