package import Storage

/// The formats there are, and how an image's format is found.
package enum Registry {
    /// One line a format, in the order in which content is looked at. Raw comes last and recognises nothing: it is
    /// chosen by name only.
    package static let formats: [any ImageFormat.Type] = [
        VHDX.self,
        QCOW2.self,
        QCOW1.self,
        VHD.self,
        Raw.self,
    ]

    /// The format called `name` ("vhdx", "vpc"), in any case.
    package static func format(named name: String) -> (any ImageFormat.Type)? {
        let lower = name.lowercased()
        return formats.first { $0.name == lower || $0.aliases.contains(lower) }
    }

    /// The format that the name of a file yet to be made asks for by its extension ("disk.vhdx", "snap.avhdx"); nil where
    /// the name says nothing.
    package static func format(forNewFile name: String) -> (any ImageFormat.Type)? {
        guard let dot = name.lastIndex(of: "."), dot != name.startIndex, !name[dot...].contains("/") else { return nil }
        if hasRawName(name) { return Raw.self }
        let word = String(name[name.index(after: dot)...]).lowercased()
        // Hyper-V's names for differencing disks that it made for checkpoints.
        if word == "avhdx" || word == "avhd" { return format(named: String(word.dropFirst())) }
        return format(named: word)
    }

    /// The format of a file: by its name for `.raw` and `.img`, otherwise by content that a guest cannot write.
    ///
    /// Throws `.unsupported`, naming a format that is known but not read, and `.malformed` for what is no image at all or
    /// looks like two kinds: a guest with a fixed VHD writes the first bytes of the file, and one with any other image
    /// may own the last ones, so neither end can be believed against the other.
    package static func detect(_ storage: any Storage) throws(ImageError) -> any ImageFormat.Type {
        if hasRawName(storage.name) { return Raw.self }
        var found: (any ImageFormat.Type)?
        for format in formats where try format.recognises(storage) {
            if let first = found {
                throw ImageError(
                    .malformed, "the file looks like images of two formats; say which it is with -o format=",
                    detail: "\(first.name) or \(format.name)")
            }
            found = format
        }
        if let found { return found }
        if let known = try KnownFormats.name(of: storage) {
            throw ImageError(.unsupported, "the format is known but cannot be read", detail: known)
        }
        guard storage.size > 0 else { throw ImageError(.malformed, "the file is empty, not a disk image") }
        throw ImageError(
            .malformed, "not a VHDX, VHD or qcow2 image; for a raw disk say -o format=raw or name it *.raw or *.img")
    }

    /// Whether the name alone says that a file is a raw disk.
    package static func hasRawName(_ name: String) -> Bool {
        let lower = name.lowercased()
        return lower.hasSuffix(".raw") || lower.hasSuffix(".img")
    }
}
