internal import Storage

extension QCOW2.Header {
    /// What decodes the image's compressed clusters. The last cluster of a disk, too, decodes to a whole one.
    var decoder: any BlockDecoder {
        let unitBytes = Int(clusterSize)
        switch compression {
        case .zlib: return DeflateDecoder(unitBytes: unitBytes)
        case .zstd: return ZstdDecoder(unitBytes: unitBytes)
        }
    }
}
