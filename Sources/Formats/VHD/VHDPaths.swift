internal import Bytes

/// Decoding of the texts in which a VHD names its parent. All of them end at the first zero.
enum VHDPathText {
    /// UTF-16 of either byte order; a last odd byte is ignored.
    static func utf16(_ bytes: ArraySlice<UInt8>, isBig: Bool) -> String {
        String(decoding: units(bytes, isBig: isBig), as: UTF16.self)
    }

    /// One character a byte, by its number.
    static func latin1(_ bytes: [UInt8]) -> String {
        String(String.UnicodeScalarView(bytes.prefix { $0 != 0 }.map { UnicodeScalar($0) }))
    }

    /// The units of UTF-16 text up to its first zero.
    static func units(_ bytes: ArraySlice<UInt8>, isBig: Bool) -> [UInt16] {
        var units: [UInt16] = []
        var index = bytes.startIndex
        while index + 1 < bytes.endIndex {
            let first = UInt16(bytes[index])
            let second = UInt16(bytes[index + 1])
            let unit = isBig ? first << 8 | second : second << 8 | first
            guard unit != 0 else { break }
            units.append(unit)
            index += 2
        }
        return units
    }
}

/// File URLs, as Mac OS X and XenServer write them.
enum VHDFileURL {
    /// The path of a URL: from this machine's root, or relative to the image, which XenServer writes as
    /// `file://./parent.vhd`. What is no URL at all is a path itself. Nil for other URLs, and for a file on another machine.
    static func path(_ bytes: [UInt8]) -> ParentReference.Path? {
        var rest = bytes.prefix { $0 != 0 }
        guard String(decoding: rest.prefix(5), as: UTF8.self).lowercased() == "file:" else {
            return plain(String(decoding: rest, as: UTF8.self))
        }
        rest = rest.dropFirst(5)
        if rest.starts(with: Array("//".utf8)) {
            rest = rest.dropFirst(2)
            let host = rest.prefix { $0 != UInt8(ascii: "/") }
            let name = String(decoding: host, as: UTF8.self)
            guard ["", "localhost", "127.0.0.1", ".", ".."].contains(name.lowercased()) else { return nil }
            if !name.hasPrefix(".") { rest = rest.dropFirst(host.count) }
        }
        guard let decoded = percentDecoded(Array(rest)), !decoded.isEmpty else { return nil }
        let text = String(decoding: decoded, as: UTF8.self)
        guard text.hasPrefix("/") else { return ParentReference.Path(base: .image, text: text) }
        // A URL of a Windows path has a slash before the drive.
        let onDrive = String(text.dropFirst())
        return WindowsPath.hasDriveOrShare(onDrive)
            ? WindowsPath.path(onDrive) : ParentReference.Path(base: .host, text: text)
    }

    /// Returns the path of a text that is no file URL.
    private static func plain(_ text: String) -> ParentReference.Path? {
        if WindowsPath.hasDriveOrShare(text) { return WindowsPath.path(text) }
        guard !text.isEmpty, !RecordedName.isProtocol(text) else { return nil }
        return ParentReference.Path(base: text.hasPrefix("/") ? .host : .image, text: text)
    }

    /// The bytes with every `%xx` replaced; other percent signs stay. Nil where one stands for a zero, which no path has.
    private static func percentDecoded(_ bytes: [UInt8]) -> [UInt8]? {
        var result: [UInt8] = []
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "%"), index + 2 < bytes.count, let high = digit(bytes[index + 1]),
                let low = digit(bytes[index + 2])
            {
                guard high << 4 | low != 0 else { return nil }
                result.append(high << 4 | low)
                index += 3
            } else {
                result.append(bytes[index])
                index += 1
            }
        }
        return result
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        Character(UnicodeScalar(byte)).hexDigitValue.map { UInt8($0) }
    }
}

/// The parent's name in the dynamic header (VHD specification, "Parent Unicode Name").
enum VHDParentName {
    /// Returns the name, word for word. It is UTF-16BE, but some writers use the byte order of their locators.
    static func text(_ bytes: ArraySlice<UInt8>) -> String {
        let units = VHDPathText.units(bytes, isBig: true)
        // Most names are mostly ASCII: then the half that is zero shows the order.
        let swapped = units.count { $0 & 0xFF == 0 } > units.count { $0 >> 8 == 0 }
        return VHDPathText.utf16(bytes, isBig: !swapped)
    }

    /// Returns the path that a name, not empty, says: most are names beside the image, some have directories. Nil for one that
    /// can only be a directory.
    static func path(_ name: String) -> ParentReference.Path? {
        let last = name.split(omittingEmptySubsequences: false) { $0 == "/" || $0 == "\\" }.last ?? ""
        return ["", ".", ".."].contains(last) ? nil : WindowsPath.path(name)
    }
}
