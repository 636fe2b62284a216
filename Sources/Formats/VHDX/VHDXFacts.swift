internal import Bytes
internal import Storage

/// What `platter info` shows of a VHDX.
extension VHDXFoundation {
    /// The shape of the disk. Throws `.io`.
    func shape() throws(ImageError) -> DiskShape {
        DiskShape(
            virtualSize: metadata.virtualSize, allocationUnit: metadata.blockSize,
            logicalSectorSize: metadata.logicalSectorSize, physicalSectorSize: metadata.physicalSectorSize,
            formatName: VHDX.name, subformat: subformat, identity: header.dataWriteGUID, remarks: remarks,
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

    private var logState: String {
        guard header.logLength > 0 else { return "none" }
        guard let replay else { return "clean" }
        let entries = "\(replay.entryCount) \(replay.entryCount == 1 ? "entry" : "entries")"
        return replay.changeCount > 0 ? "dirty, \(entries) replayed in memory" : "open without changes, \(entries)"
    }

    private func facts() throws(ImageError) -> [(name: String, value: String)] {
        var facts: [(name: String, value: String)] = []
        if let creator = try VHDXHeader.creator(of: storage) { facts.append(("creator", creator)) }
        facts += [
            ("type", subformat),
            ("block size", "\(metadata.blockSize)"),
            ("logical sector size", "\(metadata.logicalSectorSize)"),
            ("physical sector size", "\(metadata.physicalSectorSize)"),
            ("virtual disk ID", metadata.diskID.microsoftText),
            ("file write GUID", header.fileWriteGUID.microsoftText),
            ("data write GUID", header.dataWriteGUID.microsoftText),
            ("header", "\(header.slot), sequence number \(header.sequence)"),
            ("log", logState),
            ("log size", "\(header.logLength)"),
        ]
        if header.hasLog { facts.append(("log GUID", header.logGUID.microsoftText)) }
        if regions.unknownCount > 0 { facts.append(("unknown regions", "\(regions.unknownCount)")) }
        if metadata.unknownCount > 0 { facts.append(("unknown metadata items", "\(metadata.unknownCount)")) }
        return facts
    }
}
