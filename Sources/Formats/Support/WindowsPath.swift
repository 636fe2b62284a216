/// Paths as programs write them where a format has a place for a path of Windows. Many write others there: a relative one
/// in the place of the absolute one (Xen Orchestra), or one of this machine (UrBackup). So each is taken for what it is.
enum WindowsPath {
    /// Returns what `text`, not empty, means, with forward slashes.
    static func path(_ text: String) -> ParentReference.Path {
        if text.hasPrefix("file:"), text.utf8.count > 5 { return path(ofURL: text.dropFirst(5)) }
        if text.hasPrefix("/"), !text.hasPrefix("//"), !text.contains("\\") {
            return ParentReference.Path(base: .host, text: text)
        }
        let slashed = String(text.map { $0 == "\\" ? "/" : $0 })
        // A root without a drive is that of whichever drive was the current one.
        let isRooted = hasDriveOrShare(text) || slashed.hasPrefix("/")
        return ParentReference.Path(base: isRooted ? .windows : .image, text: slashed)
    }

    /// Returns what the text after `file:`, not empty, means: as QEMU takes it, nothing in it is encoded.
    private static func path(ofURL rest: Substring) -> ParentReference.Path {
        // `///` is the root behind the empty name of a host; a drive has a slash before it there.
        let path = String(rest.hasPrefix("///") ? rest.dropFirst(2) : rest)
        let onDrive = String(path.dropFirst())
        if path.hasPrefix("/"), hasDriveOrShare(onDrive) { return Self.path(onDrive) }
        if RecordedName.isProtocol(path), !hasDriveOrShare(path) {
            return ParentReference.Path(base: .image, text: "./" + path)
        }
        return Self.path(path)
    }

    /// Returns whether `text` begins with a drive (`C:`), or with two backslashes as shares, volumes and devices do
    /// (`\\nas\vm`, `\\?\Volume{…}`).
    static func hasDriveOrShare(_ text: String) -> Bool {
        if text.hasPrefix("\\\\") { return true }
        guard let first = text.utf8.first, text.utf8.dropFirst().first == UInt8(ascii: ":") else { return false }
        return (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(first | 0x20)
    }
}
