internal import Bytes
internal import Storage

/// Writing a raw disk: every byte has its place in the file already, and there is no metadata, so there is never a plan or a
/// batch. The file keeps its size.
extension RawDriver {
    func prepare() throws(ImageError) {
        guard isWritable else { throw .openForReading }
    }

    func inPlace(_ runs: inout ExtentList) throws(ImageError) {
        guard isWritable else { return }
        runs.append(.data(file: .image, offset: HostOffset(runs.remaining.lower)), length: runs.remaining.length)
    }

    /// Handles nothing: what is released is zeroed where it is, which gives its space back where the host can.
    func release(
        _ range: ByteRange, as release: Release, freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        guard isWritable else { throw .openForReading }
        return ByteRange(range.lower, to: range.lower)
    }
}
