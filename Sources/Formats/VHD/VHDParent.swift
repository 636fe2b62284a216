internal import Bytes
internal import Storage

/// How a differencing image names its parent: up to eight locators, and the name in the dynamic header.
struct VHDParent {
    /// What the image says about its parent; `Disk` finds and verifies it.
    var reference: ParentReference
    /// Where the locators' texts lie in the file.
    var parts: [VHDMetadataPart]
    /// The space that is theirs, as far as it lies in the file.
    var spaces: [VHDMetadataPart]

    /// What of the record is missing or cannot be used.
    private(set) var faults: [ParentFault] = []

    /// The longest text of a locator in bytes: that of the longest path that Windows has.
    private static let longestText: UInt32 = 64 << 10

    /// Reads the name and the locators of `header`; those that are damaged do not count. Throws `.corrupt` for a text
    /// outside the file, which is a file that was cut short or made to deceive, and `.io`.
    init(_ storage: any Storage, _ header: VHDDynamicHeader) throws(ImageError) {
        // XenServer's way of saying that the parent is a raw disk, which has no identifier.
        let isRaw = header.parentID == .zero
        reference = ParentReference(
            paths: [], format: isRaw ? "raw" : "vhd", identities: isRaw ? [] : [header.parentID])
        var found: [(rank: Int, path: ParentReference.Path?, text: String)] = []
        parts = []
        spaces = []
        for index in 0..<8 {
            let entry = header.bytes.span.bytes.extracting(droppingFirst: 576 + index * 24).extracting(first: 24)
            guard let code = VHDLocatorCode(rawValue: entry.big(at: 0)) else { continue }
            guard let part = try text(of: entry, code, in: storage) else { continue }
            parts.append(part)
            let space = max(Self.spaceBytes(entry), part.end - part.start)
            spaces.append(VHDMetadataPart(at: part.start, count: min(space, storage.size - part.start)))
            let bytes = try storage.bytes(at: HostOffset(part.start), count: Int(part.end - part.start))
            let text = code.text(bytes)
            if code != .macAlias, !text.isEmpty { found.append((code.rank, code.path(bytes), text)) }
        }
        let name = VHDParentName.text(header.bytes[64..<576])
        if !name.isEmpty { found.append((VHDLocatorCode.rankOfName, VHDParentName.path(name), name)) }
        for rank in 0...VHDLocatorCode.rankOfName {
            for one in found where one.rank == rank { add(one.path, one.text) }
        }
        if reference.paths.isEmpty { faults.append(ParentFault(what: "the differencing image names no parent")) }
    }

    /// Adds a path that was not there before; of what is no path the text is kept, for people.
    private mutating func add(_ path: ParentReference.Path?, _ text: String) {
        guard path.map(reference.paths.contains) != true else { return }
        if let path { reference.paths.append(path) }
        reference.recorded.append(text)
    }

    /// Returns where the text of a locator lies; nil when it has none, or it cannot be used.
    private mutating func text(
        of entry: RawSpan, _ code: VHDLocatorCode, in storage: any Storage
    ) throws(ImageError) -> VHDMetadataPart? {
        let length: UInt32 = entry.big(at: 8)
        let offset: UInt64 = entry.big(at: 16)
        guard length > 0 else { return nil }
        let space = Self.spaceBytes(entry)
        guard storage.holds(HostOffset(offset), count: UInt64(length)) else {
            throw ImageError(
                .corrupt, "a parent locator lies outside the file", at: offset, detail: length.counted("byte"))
        }
        let what: StaticString
        if length > Self.longestText {
            what = "a parent locator is too long"
        } else if space != 0, UInt64(length) > space {
            what = "a parent locator is longer than its space"
        } else if code.isUTF16, length % 2 != 0 {
            what = "a parent locator in UTF-16 has an odd length"
        } else {
            return VHDMetadataPart(at: offset, count: UInt64(length))
        }
        faults.append(ParentFault(what: what, offset: offset, detail: length.counted("byte")))
        return nil
    }

    /// The space of a locator in bytes: the specification counts sectors, Microsoft's own programs bytes.
    private static func spaceBytes(_ entry: RawSpan) -> UInt64 {
        let space = UInt64(entry.big(UInt32.self, at: 4))
        return space < 512 ? space * 512 : space
    }
}

/// The platforms of parent locators (VHD specification, "Parent Locator Entry"): four ASCII characters.
enum VHDLocatorCode: UInt32 {
    /// "W2ru": a relative Windows path in UTF-16LE.
    case windowsRelative = 0x5732_7275
    /// "W2ku": an absolute Windows path in UTF-16LE.
    case windowsAbsolute = 0x5732_6B75
    /// "MacX": a file URL in UTF-8, or with some writers a plain path.
    case fileURL = 0x4D61_6358
    /// "Wi2r", deprecated: a relative Windows path in the writer's code page.
    case ansiRelative = 0x5769_3272
    /// "Wi2k", deprecated: an absolute Windows path in the writer's code page.
    case ansiAbsolute = 0x5769_326B
    /// "Mac ": an alias of Mac OS 9, of use to nothing else.
    case macAlias = 0x4D61_6320

    /// The place of the name in the dynamic header among the ranks: the last.
    static let rankOfName = 5

    /// Which kind of locator is tried first.
    var rank: Int {
        switch self {
        case .windowsRelative: 0
        case .windowsAbsolute: 1
        case .fileURL: 2
        case .ansiRelative: 3
        case .ansiAbsolute, .macAlias: 4
        }
    }

    /// Whether the text is in units of two bytes.
    var isUTF16: Bool { self == .windowsRelative || self == .windowsAbsolute }

    /// The path that the text of a locator says, or nil where it says none.
    func path(_ bytes: [UInt8]) -> ParentReference.Path? {
        switch self {
        case .fileURL: return VHDFileURL.path(bytes)
        case .macAlias: return nil
        default: break
        }
        let text = text(bytes)
        return text.isEmpty ? nil : WindowsPath.path(text)
    }

    /// The text of a locator, word for word.
    func text(_ bytes: [UInt8]) -> String {
        switch self {
        case .windowsRelative, .windowsAbsolute: VHDPathText.utf16(bytes[...], isBig: false)
        // Which code page it was is not recorded; the first 256 characters of Unicode fit western ones.
        case .ansiRelative, .ansiAbsolute: VHDPathText.latin1(bytes)
        case .fileURL, .macAlias: String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }
}
