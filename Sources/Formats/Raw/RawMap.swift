internal import Bytes
internal import Storage

/// The driver of a raw disk.
final class RawDriver: FormatDriver {
    let shape: DiskShape
    let files: [any Storage]
    let parent: ParentReference? = nil

    /// The only one of `files`: an array retains what it hands out.
    let storage: any Storage
    let isWritable: Bool

    init(_ storage: any Storage, isWritable: Bool) {
        self.storage = storage
        self.isWritable = isWritable
        files = [storage]
        shape = DiskShape(virtualSize: storage.size, allocationUnit: 4096, formatName: Raw.name, subformat: "raw")
    }

    func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
        try HostHoles.map(storage, at: HostOffset(runs.remaining.lower), detail, into: &runs)
    }
}
