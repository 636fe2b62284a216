internal import Bytes
internal import Storage

extension QCOW2 {
    /// What `platter info` and the disk's users are told about an image.
    static func shape(
        of header: Header, _ extensions: Extensions, _ parent: ParentReference?, _ snapshots: SnapshotTable
    ) -> DiskShape {
        DiskShape(
            virtualSize: header.virtualSize, allocationUnit: header.clusterSize, formatName: name,
            subformat: "v\(header.version)", remarks: remarks(header, snapshots),
            facts: facts(header, extensions, parent, snapshots))
    }

    private static func remarks(_ header: Header, _ snapshots: SnapshotTable) -> [String] {
        var remarks: [String] = []
        if header.has(.dirty) {
            remarks.append("The image was not closed cleanly: its refcounts may be wrong, which reading does not mind.")
        }
        if header.has(.corrupt) {
            remarks.append("A program that wrote to the image marked it as corrupt; parts of it may not be readable.")
        }
        if let damage = snapshots.damage { remarks.append(damage) }
        return remarks
    }

    private static func facts(
        _ header: Header, _ extensions: Extensions, _ parent: ParentReference?, _ snapshots: SnapshotTable
    ) -> [(name: String, value: String)] {
        let names = extensions.featureNames
        var facts = [
            (name: "version", value: "\(header.version)"),
            (name: "cluster size", value: "\(header.clusterSize)"),
            (name: "compression type", value: "\(header.compression)"),
            (name: "refcount bits", value: "\(UInt64(1) << UInt64(header.refcountOrder))"),
            (name: "lazy refcounts", value: yes(header.compatible & 1 == 1)),
            (name: "dirty", value: yes(header.has(.dirty))),
            (name: "corrupt", value: yes(header.has(.corrupt))),
            (name: "extended L2", value: yes(header.has(.extendedL2))),
        ]
        for (set, bits) in [
            (FeatureSet.incompatible, header.incompatible), (.compatible, header.compatible),
            (.autoclear, header.autoclear),
        ] where bits != 0 {
            facts.append((name: "\(set) features", value: names.names(set, in: bits).joined(separator: ", ")))
        }
        if header.has(.externalDataFile), let name = extensions.dataFileName {
            facts.append((name: "data file", value: name))
            facts.append((name: "data file is raw", value: yes(header.autoclear & 2 == 2)))
        }
        if let path = parent?.paths.first {
            facts.append((name: "backing file", value: path.text))
            facts.append((name: "backing format", value: parent?.format ?? "not recorded"))
        }
        if extensions.bitmapCount > 0 { facts.append((name: "bitmaps", value: "\(extensions.bitmapCount)")) }
        facts.append((name: "snapshots", value: "\(snapshots.entries.count)"))
        return facts
    }

    private static func yes(_ value: Bool) -> String { value ? "yes" : "no" }
}
