internal import Bytes
internal import Storage

/// The parent locator: how a differencing disk names the disk below it ([MS-VHDX] 2.6.2.6).
///
/// What is wrong with it does not keep the image from being looked at: what is left is used.
struct VHDXParent {
    /// The size of what precedes the entries, in bytes.
    static let headBytes = 20
    private static let maximumPairs = 256

    /// B04AEFB7-D19E-4A81-B789-25B8E9445913: a VHDX below a VHDX, the only kind that is defined.
    static let locatorType = GUID(low: 0x4A81_D19E_B04A_EFB7, high: 0x1359_44E9_B825_89B7)

    /// The parent, as far as the image says what it is.
    private(set) var reference = ParentReference(paths: [], format: VHDX.name, identities: ParentReference.unrecorded)
    /// What of it is missing or cannot be used.
    private(set) var faults: [ParentFault] = []
    private var pairs: [String: String] = [:]

    /// Reads the locator at `item`, nil where the image has none. Throws `.io`, and `.corrupt` where the file ends early.
    init(_ storage: any Storage, _ item: VHDXItem?) throws(ImageError) {
        guard let item else {
            fault("the disk has a parent but no parent locator that says which")
            return
        }
        readPairs(try storage.bytes(at: item.offset, count: item.length))
        // The order of [MS-VHDX] 2.6.2.6.3.
        reference.recorded = ["relative_path", "volume_path", "absolute_win32_path"].compactMap { pairs[$0] }
        reference.paths = reference.recorded.map(WindowsPath.path)
        if reference.paths.isEmpty { fault("the parent locator has no path to the parent") }
        var identities: [GUID] = []
        if let linkage = pairs["parent_linkage"] {
            if let guid = identity(linkage) { identities.append(guid) }
        } else {
            fault("the parent locator does not say how to recognise the parent (parent_linkage)")
        }
        // While a merge is under way the parent may carry either of two identifiers; all zeros stand for none.
        if let second = pairs["parent_linkage2"], let guid = identity(second) { identities.append(guid) }
        identities.removeAll { $0 == .zero }
        if !identities.isEmpty { reference.identities = identities }
    }

    private mutating func fault(_ what: StaticString, _ detail: String? = nil) {
        faults.append(ParentFault(what: what, detail: detail))
    }

    private mutating func identity(_ text: String) -> GUID? {
        let guid = GUID(microsoft: text)
        if guid == nil { fault("the parent locator holds a linkage that is no GUID", text) }
        return guid
    }

    private mutating func readPairs(_ locator: [UInt8]) {
        let span = locator.span.bytes
        guard locator.count >= Self.headBytes else { return fault("the parent locator is too short") }
        let type = GUID(span, at: 0)
        guard type == Self.locatorType else {
            return fault("the parent locator is of an unknown type", type.microsoftText)
        }
        let count = Int(span.little(UInt16.self, at: 18))
        guard count <= Self.maximumPairs, Self.headBytes + count * 12 <= locator.count else {
            return fault("the parent locator has too many entries", "\(count)")
        }
        var twice: Set<String> = []
        for index in 0..<count {
            let entry = Self.headBytes + index * 12
            let key = Self.text(span, at: span.little(at: entry), length: span.little(at: entry + 8))
            let value = Self.text(span, at: span.little(at: entry + 4), length: span.little(at: entry + 10))
            guard let key, let value else {
                fault("the parent locator holds a string that is empty, has a NUL inside or lies outside it", key)
                continue
            }
            if pairs.updateValue(value, forKey: key) != nil { twice.insert(key) }
        }
        for key in twice.sorted() {
            // Which of the two another program goes by cannot be known.
            pairs[key] = nil
            fault("the parent locator has a key twice", key)
        }
    }

    /// A UTF-16 string of the locator; `offset` and `length` in bytes, from its start. Nil where it is none.
    private static func text(_ span: RawSpan, at offset: UInt32, length: UInt16) -> String? {
        guard offset > 0, length > 0, length % 2 == 0, UInt64(offset) + UInt64(length) <= UInt64(span.byteCount) else {
            return nil
        }
        var units: [UInt16] = []
        for index in 0..<(Int(length) / 2) { units.append(span.little(at: Int(offset) + index * 2)) }
        // Some writers end their strings like those of C.
        while units.last == 0 { units.removeLast() }
        return units.isEmpty || units.contains(0) ? nil : String(decoding: units, as: UTF16.self)
    }
}
