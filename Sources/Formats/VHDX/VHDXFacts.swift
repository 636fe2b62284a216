internal import Bytes
internal import Storage

/// What `platter info` shows of a VHDX.
extension VHDXFoundation {
    /// The shape of the disk, whose parent is recorded as `parent`. Throws `.io`.
    func shape(_ parent: VHDXParent?) throws(ImageError) -> DiskShape {
        DiskShape(
            virtualSize: metadata.virtualSize, allocationUnit: metadata.blockSize,
            logicalSectorSize: metadata.logicalSectorSize, physicalSectorSize: metadata.physicalSectorSize,
            formatName: VHDX.name, subformat: subformat, identity: header.dataWriteGUID,
            remarks: remarks + (parent?.faults ?? []).map(\.remark),
            facts: try facts())
    }

    private var subformat: String {
        if metadata.hasParent { return "differencing" }
        return metadata.leavesBlocksAllocated ? "fixed" : "dynamic"
    }

    private var remarks: [String] {
        var remarks: [String] = []
        if let replay, replay.changeCount > 0 {
            remarks.append(
                "the log holds changes that were not applied (the disk was not shut down cleanly); it was replayed in "
                    + "memory and the file is unchanged")
        }
        if header.isAlone { remarks.append("header \(3 - header.slot) is damaged; header \(header.slot) is used") }
        if regions.usedSecond { remarks.append("the first region table is damaged; its copy is used") }
        if !metadata.hasParent, metadata.locator != nil {
            remarks.append("the image names a parent but is not a differencing disk; the parent is ignored")
        }
        return remarks
    }

    /// The state of the log in one word, and how many entries of it count.
    private var logFacts: [Fact] {
        let state =
            if header.logLength == 0 { "none" } else if let replay { replay.changeCount > 0 ? "dirty" : "open" } else {
                "clean"
            }
        var facts = [Fact("log", "log", .text(state))]
        if let replay { facts.append(Fact("logEntries", "log entries", .number(UInt64(replay.entryCount)))) }
        facts.append(Fact("logSize", "log size", .bytes(UInt64(header.logLength))))
        if header.hasLog { facts.append(Fact("logGuid", "log GUID", .text(header.logGUID.microsoftText))) }
        return facts
    }

    private func facts() throws(ImageError) -> [Fact] {
        var facts: [Fact] = []
        if let creator = try VHDXHeader.creator(of: storage) {
            facts.append(Fact("creator", "creator", .text(creator)))
        }
        facts += [
            Fact("blockSize", "block size", .bytes(metadata.blockSize)),
            Fact("virtualDiskId", "virtual disk ID", .text(metadata.diskID.microsoftText)),
            Fact("fileWriteGuid", "file write GUID", .text(header.fileWriteGUID.microsoftText)),
            Fact("dataWriteGuid", "data write GUID", .text(header.dataWriteGUID.microsoftText)),
            Fact("header", "header in use", .number(UInt64(header.slot))),
            Fact("sequenceNumber", "sequence number", .number(header.sequence)),
        ]
        facts += logFacts
        facts += [
            Fact("unknownRegions", "unknown regions", .number(UInt64(regions.unknownCount))),
            Fact("unknownMetadataItems", "unknown metadata items", .number(UInt64(metadata.unknownCount))),
        ]
        return facts
    }
}
