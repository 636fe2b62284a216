/// What a name of the form `json:{…}` says (QEMU's block device options), where it says no more than a local file and its
/// format: `{"driver": "qcow2", "file": {"driver": "file", "filename": "/srv/base.qcow2"}}`.
///
/// Everything that would make other bytes of the file (an offset, a key, a driver in between) is refused by its name.
struct BlockOptions {
    /// Why a name is not followed.
    struct Refusal: Error {
        /// A few words for people: "it says 'offset'".
        var reason: String
    }

    /// The file, as it is written: relative to the image or absolute.
    private(set) var fileName = ""
    /// The format that the name gives the file; nil where it gives none.
    private(set) var format: String?
    /// Whether the name says that nothing lies below the file.
    private(set) var hasNoBacking = false

    /// Drivers of QEMU that give the bytes of a local file as they are.
    private static let fileDrivers: Set<String> = ["file", "host_device"]

    /// What changes how QEMU reads a file, and never what.
    private static let harmless: Set<String> = [
        "node-name", "read-only", "auto-read-only", "force-share", "discard", "detect-zeroes", "cache.direct",
        "cache.no-flush", "cache.writeback", "aio", "aio-max-batch", "locking", "pr-manager", "drop-cache",
        "x-check-cache-dropped", "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot",
        "pass-discard-other", "discard-no-unmap", "overlap-check", "cache-size", "l2-cache-size",
        "l2-cache-entry-size", "refcount-cache-size", "cache-clean-interval",
    ]

    private var values: [String: JSONReader.Value]

    /// Reads the object of a name. Throws what is not followed.
    init(json: String) throws(Refusal) {
        do throws(JSONReader.Failure) { values = try JSONReader.values(json) } catch {
            throw Refusal(reason: error.reason)
        }
        if let backing = values.removeValue(forKey: "backing") {
            guard backing == .null else { throw Refusal(reason: "it says 'backing'") }
            hasNoBacking = true
        }
        try readNode(prefix: "", depth: 0)
        if let key = values.keys.sorted().first { throw Refusal(reason: "it says '\(key)'") }
    }

    /// Reads the node whose keys begin with `prefix`, and those below it.
    private mutating func readNode(prefix: String, depth: Int) throws(Refusal) {
        for key in Self.harmless { values.removeValue(forKey: prefix + key) }
        let driver = try string(prefix + "driver")
        if driver.map(Self.fileDrivers.contains) ?? (values[prefix + "filename"] != nil) {
            guard let name = try string(prefix + "filename"), !name.isEmpty else {
                throw Refusal(reason: "it names no file")
            }
            fileName = name
            // A file without a format in front is a raw disk.
            if depth == 0, driver != nil { format = "raw" }
            return
        }
        if let driver {
            // Below a format only a raw one changes nothing.
            guard Registry.format(named: driver) != nil, depth == 0 || driver == "raw" else {
                throw Refusal(reason: "its driver is '\(driver)'")
            }
            if depth == 0 { format = driver }
        }
        // A raw disk may say that it begins at byte 0.
        if driver == "raw", values[prefix + "offset"] == .number("0") { values.removeValue(forKey: prefix + "offset") }
        guard depth < 4, values.keys.contains(where: { $0.hasPrefix(prefix + "file.") }) else {
            throw Refusal(reason: "it names no file")
        }
        try readNode(prefix: prefix + "file.", depth: depth + 1)
    }

    private mutating func string(_ key: String) throws(Refusal) -> String? {
        guard let value = values.removeValue(forKey: key) else { return nil }
        guard case .string(let text) = value else { throw Refusal(reason: "its '\(key)' is no text") }
        return text
    }
}
