internal import Disk
internal import Formats
internal import Storage

extension Command {
    /// `platter info`.
    static let info: Command = {
        let synopsis = "info [--json] [--chain] [-o OPTION[,OPTION...]] IMAGE"
        let help = { @Sendable in
            helpText(
                synopsis, "Says what an image is: format, sizes, parent, snapshots and the format's own facts.",
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
        var shape: DiskShape
        var parent: ParentReference?
        var parentPath: String?
        var files: [String]
        var snapshots: [SnapshotInfo]
    }

    private let images: [Image]
    private let allocated: UInt64
    private let showsChain: Bool

    /// Looks at a disk. Throws when the host cannot say how much is allocated.
    init(_ disk: Disk, path: String, chain: Bool) throws(Failure) {
        do throws(ImageError) { allocated = try disk.allocatedBytes() } catch {
            throw Failure(.system, error, path: path)
        }
        let shown = chain ? disk.layers.count : min(1, disk.layers.count)
        var images: [Image] = []
        for index in 0..<shown {
            let layer = disk.layers[index]
            let below = index + 1 < disk.layers.count ? disk.layers[index + 1].path : nil
            let snapshots = index == 0 ? disk.snapshots().map(\.info) : []
            images.append(
                Image(
                    path: layer.path, shape: layer.shape, parent: layer.parent, parentPath: below, files: layer.files,
                    snapshots: snapshots))
        }
        self.images = images
        showsChain = chain
    }

    /// For programs: one object, or with `--chain` an array, the image itself first.
    var json: JSONText {
        let objects = images.enumerated().map { index, image in json(image, isTop: index == 0) }
        return showsChain ? .array(objects) : objects.first ?? .null
    }

    private func json(_ image: Image, isTop: Bool) -> JSONText {
        let shape = image.shape
        var members: [(String, JSONText)] = [
            ("image", .string(image.path)),
            ("format", .string(shape.formatName)),
            ("kind", .string(shape.subformat)),
            ("virtualSize", .number(shape.virtualSize)),
            ("allocationUnit", .number(shape.allocationUnit)),
            ("logicalSectorSize", .number(UInt64(shape.logicalSectorSize))),
            ("physicalSectorSize", .number(UInt64(shape.physicalSectorSize))),
            ("files", .array(image.files.map { .string($0) })),
        ]
        if isTop { members.append(("allocatedBytes", .number(allocated))) }
        if let parent = image.parent {
            members.append(
                (
                    "parent",
                    .object([
                        ("path", image.parentPath.map { .string($0) } ?? .null),
                        ("format", parent.format.map { .string($0) } ?? .null),
                        ("recorded", .array(parent.paths.map { .string($0.text) })),
                    ])
                ))
        }
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
        members.append(("remarks", .array(shape.remarks.map { .string($0) })))
        return .object(members)
    }

    /// For people.
    var text: String {
        images.enumerated().map { index, image in text(image, isTop: index == 0) }.joined(separator: "\n")
    }

    private func text(_ image: Image, isTop: Bool) -> String {
        let shape = image.shape
        var rows: [(String, String)] = [
            ("image", image.path),
            ("format", "\(shape.formatName), \(shape.subformat)"),
            ("virtual size", Printable.exactSize(shape.virtualSize)),
            ("allocation unit", Printable.size(shape.allocationUnit)),
            ("sector size", "\(shape.logicalSectorSize) logical, \(shape.physicalSectorSize) physical"),
        ]
        if isTop { rows.append(("allocated", "\(Printable.size(allocated)), the whole chain")) }
        for file in image.files where file != image.path { rows.append(("data file", file)) }
        if let parent = image.parent {
            rows.append(("parent", image.parentPath ?? "not opened"))
            for path in parent.paths { rows.append(("  recorded as", path.text)) }
            if let format = parent.format { rows.append(("  of format", format)) }
        }
        for snapshot in image.snapshots {
            rows.append(("snapshot \(snapshot.id)", "\(snapshot.name) (\(Printable.size(snapshot.virtualSize)))"))
        }
        for fact in shape.facts { rows.append((fact.title, fact.value.text)) }
        for remark in shape.remarks { rows.append(("note", remark)) }
        return Table.text(rows.map { [Printable.line($0.0) + ":", Printable.line($0.1)] })
    }
}
