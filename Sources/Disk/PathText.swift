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

    /// The ends of a path with slashes or backslashes, the longest first: of `D:/vm/base/x` these are `vm/base/x`,
    /// `base/x` and `x`. At most 16; none where the last component is no file name.
    static func tails(_ text: String) -> [String] {
        var parts: [Substring] = []
        for part in text.split(whereSeparator: { $0 == "/" || $0 == "\\" }) {
            // Everything before a drive or a volume is of no use here.
            if part == ".." || part == "?" || part.utf8.last == UInt8(ascii: ":") || part.hasPrefix("Volume{") {
                parts = part == ".." ? parts.dropLast() : []
            } else if part != "." {
                parts.append(part)
            }
        }
        guard let last = text.split(whereSeparator: { $0 == "/" || $0 == "\\" }).last, last == parts.last else {
            return []
        }
        let longest = parts.suffix(16)
        return longest.indices.map { longest[$0...].joined(separator: "/") }
    }

    /// The last component of a path with slashes or backslashes; nil where that is no file name.
    static func lastComponent(_ text: String) -> String? { tails(text).last }

    /// Whether the name begins with a scheme ("nbd:", "json:") rather than being a path: a colon before any slash.
    static func hasScheme(_ text: String) -> Bool {
        guard let colon = text.utf8.firstIndex(of: UInt8(ascii: ":")) else { return false }
        return !text.utf8[..<colon].contains(UInt8(ascii: "/"))
    }
}
