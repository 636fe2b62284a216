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
        if FileName(name.utf8).saysRaw { return Raw.self }
        let word = String(name[name.index(after: dot)...]).lowercased()
        // Hyper-V's names for differencing disks that it made for checkpoints.
        if word == "avhdx" || word == "avhd" { return format(named: String(word.dropFirst())) }
        return format(named: word)
    }

    // MARK: - Files that are there

    /// The format of a file called `name` (its path or the last component): by content that a guest cannot write, and for
    /// raw by the name. `option` is how the user would name it, for the refusals.
    ///
    /// A name that says raw over content that looks like an image decides nothing: a guest could have written that into
    /// its raw disk, and a cloud image could have been called so. Throws `.malformed` for that, for what is no image at all
    /// and for what looks like two kinds: a guest with a fixed VHD writes the first bytes of the file, and one with any
    /// other image may own the last ones, so neither end can be believed against the other. Throws `.unsupported`, naming a
    /// format that is known but not read, and `.io`.
    package static func detect(
        _ storage: any Storage, name: [UInt8]? = nil, option: FormatOption = .image
    ) throws(ImageError) -> any ImageFormat.Type {
        let name = name.map { FileName($0) } ?? FileName(storage.name.utf8)
        let found = try formats(of: storage)
        if name.saysRaw {
            try refuseDisguise(storage, found, name, option)
            return Raw.self
        }
        if found.count > 1 {
            throw ImageError(
                .malformed, "the file looks like images of two formats; say which it is",
                detail: choices(found.map { $0.name }, option))
        }
        if let found = found.first { return found }
        throw try complaint(about: storage, name, option)
    }

    /// What a raw disk called `name` begins with, where that is rather a compressed file or an archive: nothing that a
    /// a guest could not have put there, so nothing to be refused. Throws `.io`.
    package static func doubt(
        about storage: any Storage, name: some Collection<UInt8>
    ) throws(ImageError) -> ImageError? {
        let known = try KnownFormat.find(FileStart(storage, atMost: 512), storage, name: FileName(name))
        guard let known, known.sort == .packed else { return nil }
        return ImageError(
            .unsupported,
            "served as a raw disk by its name, but it begins like a packed file; maybe it is to be unpacked",
            detail: "\(known.name): \(known.command)")
    }

    /// Returns whether a file called `name` is worth showing when it is damaged: the name is that of an image.
    package static func isImageName(_ name: some Collection<UInt8>) -> Bool {
        let name = FileName(name)
        return name.saysRaw || formats.contains { name.ends(with: $0.nameEndings) }
    }

    /// The formats that the content looks like. Throws `.io`.
    package static func formats(of storage: any Storage) throws(ImageError) -> [any ImageFormat.Type] {
        var found: [any ImageFormat.Type] = []
        for format in formats where try format.recognises(storage) { found.append(format) }
        return found
    }

    /// Throws where a file that is called raw looks like an image.
    private static func refuseDisguise(
        _ storage: any Storage, _ found: [any ImageFormat.Type], _ name: FileName, _ option: FormatOption
    ) throws(ImageError) {
        guard found.isEmpty else {
            throw ImageError(
                .malformed, "the name says raw and the content looks like a disk image; say which it is",
                detail: choices(found.map { $0.name } + [Raw.name], option))
        }
        let known = try KnownFormat.find(FileStart(storage, atMost: 512), storage, name: name)
        guard let known, known.sort == .image else { return }
        throw ImageError(
            .malformed,
            "the name says raw and the content looks like another program's disk image; convert it, or say raw",
            detail: "\(known.name): \(known.command), or \(option.naming(Raw.name))")
    }

    /// "-o format=qcow2 or -o format=raw".
    private static func choices(_ names: [String], _ option: FormatOption) -> String {
        names.map(option.naming).joined(separator: " or ")
    }

    /// Returns what is said of a file that is no image, in the words of the format that it should be of.
    private static func complaint(
        about storage: any Storage, _ name: FileName, _ option: FormatOption
    ) throws(ImageError) -> ImageError {
        guard storage.size > 0 else { return ImageError(.malformed, "the file is empty, not a disk image") }
        let start = try FileStart(storage)
        if let known = try KnownFormat.find(start, storage, name: name) { return known.refusal }
        if let text = start.text { return ImageError(.malformed, text) }
        // The format that the name says comes before one whose traces are found.
        for isNamed in [true, false] {
            for format in formats where name.ends(with: format.nameEndings) == isNamed {
                if let damage = try format.damage(start, storage, isNamed: isNamed) { return damage }
            }
        }
        return ImageError(.malformed, nothing(option))
    }

    private static func nothing(_ option: FormatOption) -> StaticString {
        switch option {
        case .image, .member:
            "not a VHDX, VHD or qcow2 image; for a raw disk say -o format=raw or name it *.raw or *.img"
        case .parent:
            """
            the parent's format is neither recorded nor recognised; name it with -o backing-format=, and a raw disk with \
            -o backing-format=raw
            """
        case .newParent: "the parent is not a VHDX, VHD or qcow2 image; for a raw disk say -F raw"
        }
    }
}
