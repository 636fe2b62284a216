internal import Bytes
internal import Storage

/// The name of another file as an image of the QEMU family records it: backing files and data files.
enum RecordedName {
    /// A name as people can read it, and why it is not followed; nil where it is plain text.
    struct Reading: Sendable {
        var text: String
        var refusal: String?
    }

    /// Reads the recorded bytes. Zero bytes at the end are padding; anywhere else they would make two programs see two
    /// different names. Characters in place of those and of what is not UTF-8 are U+FFFD.
    static func reading(_ bytes: [UInt8]) -> Reading {
        let length = (bytes.lastIndex { $0 != 0 }).map { $0 + 1 } ?? 0
        let name = bytes[..<length]
        let text = String(decoding: name, as: UTF8.self)
        if name.contains(0) {
            return Reading(text: text.replacing("\0", with: "\u{FFFD}"), refusal: "it holds a zero byte")
        }
        return Reading(text: text, refusal: String(validating: name, as: UTF8.self) == nil ? "it is not UTF-8" : nil)
    }

    /// Returns the text of recorded bytes that must be plain. Throws `.malformed` for those that are not.
    static func text(_ bytes: [UInt8]) throws(ImageError) -> String {
        let name = reading(bytes)
        guard let refusal = name.refusal else { return name.text }
        throw ImageError(.malformed, "a recorded file name is no plain text", detail: "\(name.text): \(refusal)")
    }

    /// Whether QEMU would take `name` as a protocol with its argument (`nbd:…`, `json:…`): a colon comes before any
    /// slash. Such a name can lead to a network or to another program's options, so it is never opened as it stands.
    static func isProtocol(_ name: String) -> Bool {
        name.utf8.first { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") } == UInt8(ascii: ":")
    }

    /// What `name`, not empty, says about a backing file; `format` is the format that is recorded beside it, which counts
    /// before one in the name, as for QEMU. What is no local file is told, and not followed: `Disk` refuses it.
    static func reference(_ name: Reading, format: String?) -> ParentReference {
        if let refusal = name.refusal {
            let path = ParentReference.Path(base: .elsewhere, text: name.text, refusal: refusal)
            return ParentReference(paths: [path], format: format)
        }
        return reference(name.text, format: format)
    }

    private static func reference(_ name: String, format: String?) -> ParentReference {
        guard name.hasPrefix("json:") else {
            return ParentReference(paths: paths(name), recorded: [name], format: format)
        }
        do throws(BlockOptions.Refusal) {
            let options = try BlockOptions(json: String(name.dropFirst(5)))
            return ParentReference(
                paths: [local(options.fileName)], recorded: [name], format: format ?? options.format,
                endsChain: options.hasNoBacking)
        } catch {
            return ParentReference(
                paths: [ParentReference.Path(base: .elsewhere, text: name, refusal: error.reason)], format: format)
        }
    }

    /// The files that a name could mean, in the order to be tried.
    private static func paths(_ name: String) -> [ParentReference.Path] {
        // QEMU on Windows wrote the name. A file here may be called so too, unless it begins with a drive, which QEMU would
        // take for a protocol.
        if name.hasPrefix("\\\\") || name.hasPrefix("//") {
            return [local(name), ParentReference.Path(base: .windows, text: WindowsPath.path(name).text)]
        }
        if WindowsPath.hasDriveOrShare(name) { return [WindowsPath.path(name)] }
        // QEMU's prefixes of plain files and devices, for names that hold a colon.
        for prefix in ["file:", "host_device:"] where name.hasPrefix(prefix) {
            let rest = String(name.dropFirst(prefix.utf8.count))
            return [rest.isEmpty ? ParentReference.Path(base: .elsewhere, text: name) : local(rest)]
        }
        guard !isProtocol(name) else { return [ParentReference.Path(base: .elsewhere, text: name)] }
        var paths = [local(name)]
        if !name.contains("/"), name.contains("\\") { paths.append(WindowsPath.path(name)) }
        return paths
    }

    /// The file of this very name: absolute on this machine, or relative to the image that records it.
    private static func local(_ name: String) -> ParentReference.Path {
        if name.hasPrefix("/") { return ParentReference.Path(base: .host, text: name) }
        return ParentReference.Path(base: .image, text: isProtocol(name) ? "./" + name : name)
    }
}
