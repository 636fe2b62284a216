internal import Bytes
internal import Storage

/// The name of another file as an image of the QEMU family records it: backing files and data files.
enum RecordedName {
    /// Turns the recorded bytes into text. Zero bytes at the end are padding; anywhere else they would make two programs
    /// see two different names. Throws `.malformed` for those, and for names that are not UTF-8.
    static func text(_ bytes: [UInt8]) throws(ImageError) -> String {
        let length = (bytes.lastIndex { $0 != 0 }).map { $0 + 1 } ?? 0
        let name = bytes[..<length]
        guard !name.contains(0) else { throw ImageError(.malformed, "a recorded file name holds a zero byte") }
        guard let text = String(validating: name, as: UTF8.self) else {
            throw ImageError(
                .malformed, "a recorded file name is not UTF-8", detail: String(decoding: name, as: UTF8.self))
        }
        return text
    }

    /// Whether QEMU would take `name` as a protocol with its argument (`nbd:…`, `json:…`): a colon comes before any
    /// slash. Such a name can lead to a network or to another program's options, so it is never opened as it stands.
    static func isProtocol(_ name: String) -> Bool {
        name.utf8.first { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") } == UInt8(ascii: ":")
    }

    /// What `name`, not empty, says about a backing file; `format` is the format that is recorded beside it, which counts
    /// before one in the name, as for QEMU. What is no local file is told, and not followed: `Disk` refuses it.
    static func reference(_ name: String, format: String?) -> ParentReference {
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
