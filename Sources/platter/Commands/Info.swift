internal import Disk
internal import Formats
internal import Storage

extension Command {
    /// `platter info`.
    static let info: Command = {
        let synopsis = "info [--json] [--chain] [-o OPTION[,OPTION...]] IMAGE"
        let help = { @Sendable in
            helpText(
                synopsis, "Says what an image is: format, sizes, parent, snapshots, partitions and facts.",
                options: OptionTable.info.helpText)
        }
        return Command(
            name: "info", synopsis: synopsis, summary: "say what an image is", help: help
        ) { arguments throws(Failure) in
            try parsing(.info, InspectSettings(), arguments, help: help) { settings, operands throws(Failure) in
                let path = try InspectSettings.image(operands, command: "info")
                let disk = try settings.open(path)
                let report = try InfoReport(disk, path: path, chain: settings.showsChain)
                try Output.print(settings.isJSON ? report.json.text + "\n" : report.text)
                return .success
            }
        }
    }()
}

/// What `platter info` says about a disk.
struct InfoReport {
    /// One image of the chain.
    private struct Image {
        var path: String
        /// 0 for the base; nil where that could not be opened.
        var layer: Int?
        var shape: DiskShape
        var parent: ParentReference?
        var parentPath: String?
        var missingParent: ImageError?
        var allocated: UInt64
        var files: [String]
        var snapshots: [SnapshotInfo]
        var remarks: [String]
        /// The partition table of the whole disk, with the topmost image.
        var table: PartitionTable?
    }

    private let images: [Image]
    private let showsChain: Bool

    /// Looks at a disk. Throws when the host cannot say how much is allocated.
    init(_ disk: Disk, path: String, chain: Bool) throws(Failure) {
        let shown = chain ? disk.layers.count : min(1, disk.layers.count)
        var images: [Image] = []
        for index in 0..<shown {
            let layer = disk.layers[index]
            let below = index + 1 < disk.layers.count ? disk.layers[index + 1].path : nil
            let snapshots = index == 0 ? disk.snapshots().map(\.info) : []
            let allocated: UInt64
            do throws(ImageError) { allocated = try layer.allocatedBytes() } catch {
                throw Failure(.system, error, path: layer.path)
            }
            images.append(
                Image(
                    path: layer.path, layer: disk.layerNumber(atDepth: index), shape: layer.shape, parent: layer.parent,
                    parentPath: below, missingParent: layer.missingParent, allocated: allocated, files: layer.files,
                    snapshots: snapshots,
                    remarks: layer.shape.remarks + (index == 0 ? [disk.sectorRemark].compactMap { $0 } : []),
                    table: index == 0 ? disk.partitionReport() : nil))
        }
        self.images = images
        showsChain = chain
    }

    /// For programs: one object, or with `--chain` an array, the image itself first.
    var json: JSONText {
        let objects = images.map(json)
        return showsChain ? .array(objects) : objects.first ?? .null
    }

    private func json(_ image: Image) -> JSONText {
        let shape = image.shape
        var members: [(String, JSONText)] = [
            ("image", .string(image.path)),
            ("layer", image.layer.map { .number(UInt64($0)) } ?? .null),
            ("format", .string(shape.formatName)),
            ("kind", .string(shape.subformat)),
            ("virtualSize", .number(shape.virtualSize)),
            ("allocationUnit", .number(shape.allocationUnit)),
            ("logicalSectorSize", .number(UInt64(shape.logicalSectorSize))),
            ("physicalSectorSize", .number(UInt64(shape.physicalSectorSize))),
            ("files", .array(image.files.map { .string($0) })),
            ("allocatedBytes", .number(image.allocated)),
        ]
        if let parent = image.parent { members.append(("parent", json(parent, of: image))) }
        members.append(
            (
                "snapshots",
                .array(
                    image.snapshots.map { snapshot in
                        .object([
                            ("id", .string(snapshot.id)), ("name", .string(snapshot.name)),
                            ("virtualSize", .number(snapshot.virtualSize)), ("date", .signed(snapshot.date)),
                        ])
                    })
            ))
        members.append(("facts", .object(shape.facts.map { ($0.key, $0.value.json) })))
        members.append(("remarks", .array(image.remarks.map { .string($0) })))
        if let table = image.table { members.append(("partitionTable", table.json)) }
        return .object(members)
    }

    private func json(_ parent: ParentReference, of image: Image) -> JSONText {
        .object([
            ("path", image.parentPath.map { .string($0) } ?? .null),
            ("format", parent.format.map { .string($0) } ?? .null),
            ("recorded", .array(parent.recorded.map { .string($0) })),
            ("identities", .array(parent.identityTexts.map { .string($0) })),
            ("error", image.missingParent.map { .string(Failure.words(for: $0)) } ?? .null),
        ])
    }

    /// For people.
    var text: String { images.map(text).joined(separator: "\n") }

    private func text(_ image: Image) -> String {
        let shape = image.shape
        var rows: [(String, String)] = [
            ("image", image.path),
            (
                "format",
                shape.formatName == shape.subformat ? shape.formatName : "\(shape.formatName), \(shape.subformat)"
            ),
            ("virtual size", Printable.exactSize(shape.virtualSize)),
            ("allocation unit", Printable.size(shape.allocationUnit)),
            ("sector size", "\(shape.logicalSectorSize) logical, \(shape.physicalSectorSize) physical"),
        ]
        if showsChain { rows.insert(("layer", image.layer.map(String.init) ?? "unknown, without the base"), at: 1) }
        rows.append(("allocated", Printable.size(image.allocated)))
        for file in image.files where file != image.path { rows.append(("data file", file)) }
        if let parent = image.parent {
            rows.append(("parent", image.parentPath ?? "cannot be opened"))
            if let error = image.missingParent { rows.append(("  reason", Failure.words(for: error))) }
            for name in parent.recorded { rows.append(("  recorded as", name)) }
            if let format = parent.format { rows.append(("  of format", format)) }
            for identity in parent.identityTexts { rows.append(("  of identity", identity)) }
        }
        for snapshot in image.snapshots {
            rows.append(("snapshot \(snapshot.id)", "\(snapshot.name) (\(Printable.size(snapshot.virtualSize)))"))
        }
        for fact in shape.facts { rows.append((fact.title, fact.value.text)) }
        for remark in image.remarks { rows.append(("note", remark)) }
        rows += image.table?.rows ?? []
        let text = Table.text(rows.map { [Printable.line($0.0) + ":", Printable.line($0.1)] })
        guard let list = image.table?.list, !list.isEmpty else { return text }
        return text + "\n" + list
    }
}
