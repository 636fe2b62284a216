internal import Bytes
internal import Storage

extension QCOW2 {
    /// The backing file as the image records it, or nil for none. A format that is recorded must be one that platter
    /// has; one that is not recorded stays open, for `Disk` to be careful with. Throws `.denied` and `.unsupported`.
    static func backingReference(
        _ header: Header, _ extensions: Extensions, in storage: any Storage
    ) throws(ImageError) -> ParentReference? {
        guard let name = extensions.backingName else { return nil }
        let path = try RecordedName.path(name)
        let format = extensions.backingFormat.flatMap { $0.isEmpty ? nil : $0 }
        if let format, Registry.format(named: format) == nil {
            throw ImageError(.unsupported, "the backing file is of a format that cannot be read", detail: format)
        }
        return ParentReference(paths: [path], format: format)
    }
}
