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
    ) -> [Fact] {
        var facts = [
            Fact("version", "version", .number(UInt64(header.version))),
            Fact("clusterSize", "cluster size", .bytes(header.clusterSize)),
            Fact("compressionType", "compression type", .text("\(header.compression)")),
            Fact("refcountBits", "refcount bits", .number(UInt64(1) << UInt64(header.refcountOrder))),
            Fact("lazyRefcounts", "lazy refcounts", .flag(header.compatible & 1 == 1)),
            Fact("dirty", "dirty", .flag(header.has(.dirty))),
            Fact("corrupt", "corrupt", .flag(header.has(.corrupt))),
            Fact("extendedL2", "extended L2", .flag(header.has(.extendedL2))),
        ]
        facts += features(header, extensions.featureNames)
        if header.has(.externalDataFile), let name = extensions.dataFileName {
            facts.append(Fact("dataFile", "data file", .text(name)))
            facts.append(Fact("dataFileRaw", "data file is raw", .flag(header.autoclear & 2 == 2)))
        }
        if let name = parent?.recorded.first {
            facts.append(Fact("backingFile", "backing file", .text(name)))
            facts.append(Fact("backingFormat", "backing format", (parent?.format).map { .text($0) } ?? .absent))
        }
        facts.append(Fact("bitmaps", "bitmaps", .number(UInt64(extensions.bitmapCount))))
        facts.append(Fact("snapshots", "snapshots", .number(UInt64(snapshots.entries.count))))
        return facts
    }

    /// The feature bits that are set, by name, in the three sets that the header has.
    private static func features(_ header: Header, _ names: FeatureNames) -> [Fact] {
        let sets: [(FeatureSet, UInt64)] = [
            (.incompatible, header.incompatible), (.compatible, header.compatible), (.autoclear, header.autoclear),
        ]
        return sets.filter { $0.1 != 0 }.map { set, bits in
            Fact("\(set)Features", "\(set) features", .list(names.names(set, in: bits)))
        }
    }
}
