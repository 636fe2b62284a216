internal import Storage
internal import Synchronization

/// One look over all tables before a session changes any: whether a refcount of 0 means that a cluster is free.
///
/// An allocator that believes the refcounts of a damaged image gives out clusters that something still refers to, and one
/// that makes a truncated file longer turns what was lost, and read as an error, into zeros.
extension QCOW2.Checker {
    /// Counts the references of the image, which nobody changes meanwhile, and compares them with the stored refcounts.
    /// Throws `.corrupt` where the image leads past the end of its file or a refcount is lower than the number of references,
    /// `.unsupported` where counting takes more memory than was allowed, and `.io`.
    func survey() throws(ImageError) {
        try countAll()
        guard !namesPastEnd else {
            throw ImageError(
                .corrupt,
                "the file was cut short: the image leads past its end, and a write would put other data there; platter check says where"
            )
        }
        try readRefcountTable()
        if !needsRebuild, try firstUncounted() == nil { return }
        throw ImageError(
            .corrupt,
            "the image's refcounts are too low, so what is free is not known; platter check --repair mends them",
            at: try needsRebuild ? nil : firstUncounted().map { $0 << header.clusterBits })
    }

    /// The first cluster that has more references than its stored refcount says.
    private func firstUncounted() throws(ImageError) -> UInt64? {
        var stored = [UInt64](repeating: 0, count: Int(QCOW2.ClusterCounts.segment))
        for segment in counts.segments {
            try loadStored(segment, into: &stored)
            let base = segment * QCOW2.ClusterCounts.segment
            for index in stored.indices where stored[index] < counts.count(of: base + UInt64(index)) {
                return base + UInt64(index)
            }
        }
        return nil
    }
}

extension QCOW2.Writer {
    /// Images of up to this many clusters on the host are surveyed when they are opened, which takes some hundredths of a
    /// second; larger ones before the first change of a table.
    private static let mostClustersAtOpen: UInt64 = 1 << 21

    /// Surveys an image of ordinary size, so that a damaged one is refused at once. Throws like `Checker.survey`.
    func surveyAtOpen() throws(ImageError) {
        try state.withLock { (state) throws(ImageError) in
            let clusters = try state.imageFile.allocatedBytes() >> state.clusterBits
            if clusters <= Self.mostClustersAtOpen { try state.surveyOnce() }
        }
    }
}

extension QCOW2.WriteState {
    /// The memory that a survey may take in bytes: enough for 20 TiB of clusters of 64 KiB.
    private static let surveyBytes = 1 << 30

    /// Surveys the image unless that was done; no table has been changed before. Where the references are too many to be
    /// counted, nothing that the file holds is given out or given up in this session. Throws like `Checker.survey`, again
    /// each time.
    func surveyOnce() throws(ImageError) {
        if let survey { return try survey.get() }
        do throws(ImageError) {
            try QCOW2.Checker(imageFile, repairs: false, mostBytes: Self.surveyBytes).survey()
            survey = .success(())
        } catch {
            switch error.kind {
            case .unsupported:
                (reusesSpace, cursor, survey) = (false, fresh, .success(()))
            case .corrupt:
                survey = .failure(error)
                throw error
            default: throw error
            }
        }
    }
}
