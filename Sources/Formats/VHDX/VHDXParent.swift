internal import Bytes
internal import Storage

/// The parent locator: how a differencing disk names the disk below it ([MS-VHDX] 2.6.2.6).
enum VHDXParent {
    /// The size of what precedes the entries, in bytes.
    static let headBytes = 20
    private static let maximumPairs = 256

    /// B04AEFB7-D19E-4A81-B789-25B8E9445913: a VHDX below a VHDX, the only kind that is defined.
    static let locatorType = GUID(low: 0x4A81_D19E_B04A_EFB7, high: 0x1359_44E9_B825_89B7)

    /// Reads the locator at `item`. Throws `.malformed`, `.unsupported` for another type of locator, and `.io`.
    static func reference(_ storage: any Storage, _ item: VHDXItem) throws(ImageError) -> ParentReference {
        let pairs = try pairs(try storage.bytes(at: item.offset, count: item.length))
        // The order of [MS-VHDX] 2.6.2.6.3.
        let recorded = ["relative_path", "volume_path", "absolute_win32_path"].compactMap { pairs[$0] }
        guard !recorded.isEmpty else {
            throw ImageError(.malformed, "the parent locator has no path to the parent", at: item.offset.rawValue)
        }
        guard let linkage = pairs["parent_linkage"] else {
            throw ImageError(.malformed, "the parent locator does not say how to recognise the parent (parent_linkage)")
        }
        var identities = [try identity(linkage)]
        // While a merge is under way the parent may carry either of two identifiers; all zeros stand for none.
        if let second = pairs["parent_linkage2"] {
            let guid = try identity(second)
            if guid != .zero { identities.append(guid) }
        }
        return ParentReference(
            paths: recorded.map(WindowsPath.path), recorded: recorded, format: VHDX.name, identities: identities)
    }

    private static func identity(_ text: String) throws(ImageError) -> GUID {
        guard let guid = GUID(microsoft: text) else {
            throw ImageError(.malformed, "the parent locator holds a linkage that is no GUID", detail: text)
        }
        return guid
    }

    private static func pairs(_ locator: [UInt8]) throws(ImageError) -> [String: String] {
        let span = locator.span.bytes
        guard locator.count >= headBytes else { throw ImageError(.malformed, "the parent locator is too short") }
        let type = GUID(span, at: 0)
        guard type == locatorType else {
            throw ImageError(.unsupported, "the parent locator is of an unknown type", detail: type.microsoftText)
        }
        let count = Int(span.little(UInt16.self, at: 18))
        guard count <= maximumPairs, headBytes + count * 12 <= locator.count else {
            throw ImageError(.malformed, "the parent locator has too many entries", detail: "\(count)")
        }
        var pairs: [String: String] = [:]
        for index in 0..<count {
            let entry = headBytes + index * 12
            let key = try text(
                span, at: span.little(at: entry), length: span.little(at: entry + 8))
            let value = try text(
                span, at: span.little(at: entry + 4), length: span.little(at: entry + 10))
            guard pairs.updateValue(value, forKey: key) == nil else {
                throw ImageError(.malformed, "the parent locator has a key twice", detail: key)
            }
        }
        return pairs
    }

    /// A UTF-16 string of the locator; `offset` and `length` in bytes, from its start.
    private static func text(_ span: RawSpan, at offset: UInt32, length: UInt16) throws(ImageError) -> String {
        guard offset > 0, length > 0, length % 2 == 0, UInt64(offset) + UInt64(length) <= UInt64(span.byteCount) else {
            throw ImageError(.malformed, "the parent locator holds a string that lies outside it")
        }
        var units: [UInt16] = []
        for index in 0..<(Int(length) / 2) { units.append(span.little(at: Int(offset) + index * 2)) }
        // Some writers end their strings like those of C.
        while units.last == 0 { units.removeLast() }
        guard !units.isEmpty, !units.contains(0) else {
            throw ImageError(.malformed, "the parent locator holds a string that is empty or has a NUL inside")
        }
        return String(decoding: units, as: UTF16.self)
    }
}
