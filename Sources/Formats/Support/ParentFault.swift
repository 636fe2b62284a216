/// Something in an image's record of its parent that is of no use. The image is looked at without it.
struct ParentFault {
    /// What it is, a sentence without a full stop.
    var what: StaticString
    /// Where it is in the image, in bytes; nil where it has no place of its own.
    var offset: UInt64?
    /// What was found; nil where `what` says enough.
    var detail: String?

    /// The remark about it.
    var remark: String { "\(what)" + (detail.map { ": \($0)" } ?? "") }
}

extension CheckReport {
    /// Reports `faults` as corruptions, at `place` where they have none of their own.
    mutating func add(_ faults: [ParentFault], at place: UInt64? = nil) {
        for fault in faults { add(.corruption, fault.what, at: fault.offset ?? place, detail: fault.detail) }
    }
}
