package import Formats
internal import Logging
package import Storage

/// Which format a file is opened in: the user's word first, then what the file shows.
extension DiskOptions {
    /// The format of the image itself, whose file is called `name` where that is not what `storage` is called: as a rule
    /// says that its name fits, otherwise as `-o format=` says, otherwise what name and content show. Throws `.unsupported`
    /// and `.malformed`, and `.io`.
    package func format(
        ofImage storage: any Storage, name: [UInt8]? = nil
    ) throws(ImageError) -> any ImageFormat.Type {
        let name = name ?? imageName ?? Array(storage.name.utf8)
        if let word = ruledFormat(name) ?? format { return try Self.format(named: word) }
        return try Registry.detect(storage, name: name, option: formatOption)
    }

    /// The format of a parent whose child records `recorded`, and whether that is somebody's word: where it is not, the file
    /// shows it, which a guest may have written. Of a file that the user named in place of the recorded one (`isNamed`) the
    /// user's word counts first, and where only `raw` is recorded it must not look like an image. Throws as the other one.
    func format(
        ofParent storage: any Storage, recorded: String?, isNamed: Bool
    ) throws(ImageError) -> (format: any ImageFormat.Type, isTold: Bool) {
        let name = Array(storage.name.utf8)
        let said = ruledFormat(name) ?? backingFormat
        if let word = isNamed ? said ?? recorded : recorded ?? said {
            let format = try Self.format(named: word)
            if isNamed, said == nil, try !format.recognises(storage),
                let other = try Registry.formats(of: storage).first
            {
                throw ImageError(
                    .malformed, "the image records another format of its parent than this file has; say which it is",
                    detail: "-o backing-format=\(other.name) or -o backing-format=\(word)")
            }
            return (format, true)
        }
        return (try Registry.detect(storage, name: name, option: .parent), false)
    }

    /// Says in the log where a file is taken for a raw disk by its name alone, and begins like something else.
    func reportDoubt(about storage: any Storage) {
        let name = imageName ?? Array(storage.name.utf8)
        guard format == nil, ruledFormat(name) == nil, let doubt = try? Registry.doubt(about: storage, name: name)
        else { return }
        log.warning("\(doubt.named(storage.name))")
    }

    /// The options with the user's word about the image itself taken back and `format` in its place.
    package func pinned(to format: String?) -> DiskOptions {
        var options = self
        options.format = format
        options.formatRules = []
        return options
    }

    /// Returns what the first rule says that the last component of `path` fits.
    private func ruledFormat(_ path: [UInt8]) -> String? {
        guard !formatRules.isEmpty, let name = path.split(separator: UInt8(ascii: "/")).last else { return nil }
        return formatRules.first { $0.pattern.matches(name) }?.format
    }

    /// A format by its name. Throws `.unsupported`.
    static func format(named name: String) throws(ImageError) -> any ImageFormat.Type {
        guard let format = Registry.format(named: name) else {
            throw ImageError(.unsupported, "there is no such format", detail: name)
        }
        return format
    }
}
