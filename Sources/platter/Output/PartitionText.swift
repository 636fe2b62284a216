internal import Bytes
internal import Disk

/// How `platter info` shows a partition table.
extension PartitionTable {
    /// The lines about the table as a whole, each a title and a value.
    var rows: [(String, String)] {
        guard let kind else { return [("partition table", "none: \(problem ?? "there is none")")] }
        let count = entries.count.counted("partition")
        var rows = [("partition table", "\(kind.title), \(count), in sectors of \(sectorSize.counted("byte"))")]
        if let diskID { rows.append(("disk identifier", diskID)) }
        for remark in remarks { rows.append(("table note", remark)) }
        return rows
    }

    /// The partitions in columns, with a line of titles; empty where there are none.
    var list: String {
        guard !entries.isEmpty else { return "" }
        let titles = ["partition", "start in bytes", "size in bytes", "type", "name"]
        return Table.text([titles] + entries.map { $0.cells.map(Printable.line) })
    }

    /// For programs.
    var json: JSONText {
        .object([
            ("kind", kind.map { .string($0.rawValue) } ?? .null), ("sectorSize", .number(sectorSize)),
            ("diskId", diskID.map { .string($0) } ?? .null),
            ("partitions", .array(entries.map(\.json))),
            ("remarks", .array(remarks.map { .string($0) })),
            ("problem", problem.map { .string($0) } ?? .null),
        ])
    }
}

extension PartitionTable.Kind {
    fileprivate var title: String {
        switch self {
        case .gpt: "GPT"
        case .mbr: "MBR"
        }
    }
}

extension PartitionEntry {
    fileprivate var cells: [String] {
        let mark = isBootable ? " (boot)" : ""
        let kind = typeName.map { "\($0) (\(type))" } ?? type
        return [
            "\(number)\(mark)", Self.size(range.lower), Self.size(range.length), kind,
            label.isEmpty ? "-" : label,
        ]
    }

    private static func size(_ bytes: UInt64) -> String {
        bytes < 1024 ? "\(bytes)" : "\(bytes) (\(Printable.size(bytes)))"
    }

    fileprivate var json: JSONText {
        .object([
            ("number", .number(UInt64(number))), ("type", .string(type)),
            ("typeName", typeName.map { .string($0) } ?? .null), ("name", .string(label)),
            ("id", id.map { .string($0) } ?? .null), ("bootable", .bool(isBootable)),
            ("start", .number(range.lower)), ("size", .number(range.length)),
        ])
    }
}
