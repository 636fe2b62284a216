internal import Bytes

extension QCOW2 {
    /// The backing file as the image records it, or nil for none. A format that is not recorded stays open, for `Disk` to be
    /// careful with, and so does one that platter does not have: the image itself can be looked at all the same.
    static func backingReference(_ extensions: Extensions) -> ParentReference? {
        guard let name = extensions.backingName else { return nil }
        return RecordedName.reference(name, format: extensions.backingFormat.flatMap { $0.isEmpty ? nil : $0 })
    }
}
