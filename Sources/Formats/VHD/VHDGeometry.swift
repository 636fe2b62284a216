internal import Bytes

/// Cylinders, heads and sectors of a disk (VHD specification, appendix "CHS Calculation").
struct VHDGeometry: Equatable {
    /// The largest geometry, in sectors: larger disks have it too.
    static let most: UInt64 = 65535 * 16 * 255

    var cylinders: UInt16
    var heads: UInt8
    var sectorsPerTrack: UInt8

    /// The geometry that the appendix gives a disk of `sectors` sectors; its product is at most that.
    init(sectors: UInt64) {
        let total = min(sectors, Self.most)
        var perTrack: UInt64 = 255
        var heads: UInt64 = 16
        var tracks = total / 255
        if total < 65535 * 16 * 63 {
            perTrack = 17
            tracks = total / 17
            heads = max(4, (tracks + 1023) / 1024)
            if tracks >= heads * 1024 || heads > 16 {
                perTrack = 31
                heads = 16
                tracks = total / 31
            }
            if tracks >= heads * 1024 {
                perTrack = 63
                heads = 16
                tracks = total / 63
            }
        }
        cylinders = UInt16(clamping: tracks / heads)
        self.heads = UInt8(clamping: heads)
        sectorsPerTrack = UInt8(clamping: perTrack)
    }

    /// Its product.
    var sectors: UInt64 { UInt64(cylinders) * UInt64(heads) * UInt64(sectorsPerTrack) }

    /// The smallest number of sectors, at least `sectors`, that is the product of its own geometry: what old programs
    /// make a disk that size them so. Beyond what a geometry can say, the number itself.
    static func rounded(_ sectors: UInt64) -> UInt64 {
        guard sectors < most else { return sectors }
        // A cylinder is at most 16 × 255 sectors, so that the next product is not far.
        for larger in sectors...min(most, sectors + 16 * 255 * 2) {
            let product = VHDGeometry(sectors: larger).sectors
            if product >= sectors { return product }
        }
        return sectors
    }
}
