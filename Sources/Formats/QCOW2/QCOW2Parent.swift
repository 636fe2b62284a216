internal import Bytes
internal import Storage

extension QCOW2 {
    /// The backing file as the image records it, or nil for none. A format that is not recorded stays open, for `Disk` to be
    /// careful with, and so does one that platter does not have: the image itself can be looked at all the same.
    static func backingReference(
        _ header: Header, _ extensions: Extensions
    ) -> ParentReference? {
        guard let name = extensions.backingName else { return nil }
        let format = extensions.backingFormat.flatMap { $0.isEmpty ? nil : $0 }
        return ParentReference(paths: [RecordedName.path(name)], format: format)
    }
}
