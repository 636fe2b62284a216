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
    /// slash. Such a name can lead to a network or to another program's options, so it is never followed.
    static func isProtocol(_ name: String) -> Bool {
        name.utf8.first { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") } == UInt8(ascii: ":")
    }

    /// The path that `name` stands for: absolute on this machine, relative to the image that records it, or what is never
    /// followed: a protocol name.
    static func path(_ name: String) -> ParentReference.Path {
        guard !isProtocol(name) else { return ParentReference.Path(base: .elsewhere, text: name) }
        return ParentReference.Path(base: name.hasPrefix("/") ? .host : .image, text: name)
    }
}
