/// Paths as text: nothing here asks the host.
enum PathText {
    /// The absolute path that `text` means when it is relative to `directory` (absolute), with `.`, `..` and repeated
    /// slashes taken out. A `..` at the root stays there.
    static func join(_ directory: String, _ text: String) -> String {
        var parts: [Substring] = []
        for part in (text.hasPrefix("/") ? text : "\(directory)/\(text)").split(separator: "/") where part != "." {
            if part == ".." { _ = parts.popLast() } else { parts.append(part) }
        }
        return "/" + parts.joined(separator: "/")
    }

    /// The directory of a normalised absolute path.
    static func directory(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/"), slash != path.startIndex else { return "/" }
        return String(path[..<slash])
    }

    /// What follows `root` in `path` (both normalised and absolute); nil where `path` is not below it.
    static func relative(_ path: String, to root: String) -> String? {
        let prefix = root == "/" ? "/" : root + "/"
        guard path.utf8.count > prefix.utf8.count, path.utf8.starts(with: prefix.utf8) else { return nil }
        return String(decoding: path.utf8.dropFirst(prefix.utf8.count), as: UTF8.self)
    }

    /// The last component of a path with slashes or backslashes; nil where that is no file name.
    static func lastComponent(_ text: String) -> String? {
        let parts = text.split(whereSeparator: { $0 == "/" || $0 == "\\" })
        guard let last = parts.last, last != ".", last != ".." else { return nil }
        return String(last)
    }

    /// Whether the name begins with a scheme ("nbd:", "json:") rather than being a path: a colon before any slash.
    static func hasScheme(_ text: String) -> Bool {
        guard let colon = text.utf8.firstIndex(of: UInt8(ascii: ":")) else { return false }
        return !text.utf8[..<colon].contains(UInt8(ascii: "/"))
    }
}
