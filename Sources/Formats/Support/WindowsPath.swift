/// Paths as programs write them where a format has a place for a path of Windows. Many write others there: a relative one
/// in the place of the absolute one (Xen Orchestra), or one of this machine (UrBackup). So each is taken for what it is.
enum WindowsPath {
    /// Returns what `text`, not empty, means, with forward slashes.
    static func path(_ text: String) -> ParentReference.Path {
        if text.hasPrefix("/"), !text.hasPrefix("//"), !text.contains("\\") {
            return ParentReference.Path(base: .host, text: text)
        }
        let slashed = String(text.map { $0 == "\\" ? "/" : $0 })
        // A root without a drive is that of whichever drive was the current one.
        let isRooted = hasDriveOrShare(text) || slashed.hasPrefix("/")
        return ParentReference.Path(base: isRooted ? .windows : .image, text: slashed)
    }

    /// Returns whether `text` begins with a drive (`C:`), or with two backslashes as shares, volumes and devices do
    /// (`\\nas\vm`, `\\?\Volume{…}`).
    static func hasDriveOrShare(_ text: String) -> Bool {
        if text.hasPrefix("\\\\") { return true }
        guard let first = text.utf8.first, text.utf8.dropFirst().first == UInt8(ascii: ":") else { return false }
        return (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(first | 0x20)
    }
}
