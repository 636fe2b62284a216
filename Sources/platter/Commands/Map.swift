internal import Bytes
internal import Disk
internal import Storage

extension Command {
    /// `platter map`.
    static let map: Command = {
        let synopsis = "map [--json] [-o OPTION[,OPTION...]] IMAGE"
        let help = { @Sendable in
            helpText(
                synopsis,
                """
                Lists where each range of the disk lies: data or encoded at an offset of a
                file, zero, or hole; missing is what only a parent has that cannot be opened.
                """,
                options: OptionTable.map.helpText)
        }
        return Command(
            name: "map", synopsis: synopsis, summary: "say where each range of an image's disk lies", help: help
        ) { arguments throws(Failure) in
            try parsing(.map, InspectSettings(), arguments, help: help) { settings, operands throws(Failure) in
                let path = try InspectSettings.image(operands, command: "map")
                let disk = try settings.open(path)
                if let error = disk.missingParent {
                    let line = "\(path): what only the missing parent has is called 'missing' here: "
                    Output.report(Failure(.success, line + Failure.words(for: error)))
                }
                try MapReport(disk: disk, path: path, isJSON: settings.isJSON).write()
                return .success
            }
        }
    }()
}

/// Writes the map of a disk run by run: a fragmented disk of many TiB has more runs than fit in memory.
struct MapReport {
    let disk: Disk
    let path: String
    let isJSON: Bool
    private let columns: MapColumns

    /// A report on `disk`, the image at `path`.
    init(disk: Disk, path: String, isJSON: Bool) {
        self.disk = disk
        self.path = path
        self.isJSON = isJSON
        columns = MapColumns(disk)
    }

    /// Writes all runs to standard output. Throws when the image is damaged or standard output cannot take it.
    func write() throws(Failure) {
        try Output.print(isJSON ? "[" : columns.line("start", "length", "place", "layer", "offset", "file"))
        var isFirst = true
        var pending: MappedRun?
        var position: UInt64 = 0
        while position < disk.size {
            var text = ""
            let runs: [MappedRun]
            do throws(ImageError) { runs = try disk.map(from: position) } catch {
                throw Failure(.system, error, path: path)
            }
            guard let end = runs.last?.range.upper, end > position else { break }
            for run in runs {
                guard let last = pending else {
                    pending = run
                    continue
                }
                if let joined = Self.join(last, run) {
                    pending = joined
                    continue
                }
                text += line(last, isFirst: isFirst)
                isFirst = false
                pending = run
            }
            position = end
            if !text.isEmpty { try Output.print(text) }
        }
        if let pending { try Output.print(line(pending, isFirst: isFirst)) }
        if isJSON { try Output.print("]\n") }
    }

    /// One run that says the same as two neighbours, if there is one.
    static func join(_ first: MappedRun, _ second: MappedRun) -> MappedRun? {
        guard first.layer == second.layer else { return nil }
        switch (first.place, second.place) {
        case (.zero, .zero), (.hole, .hole), (.missing, .missing): break
        case (.data(let file, let offset), .data(let nextFile, let nextOffset))
        where file == nextFile && offset &+ first.range.length == nextOffset: break
        default: return nil
        }
        var joined = first
        joined.range = ByteRange(first.range.lower, to: second.range.upper)
        return joined
    }

    private func line(_ run: MappedRun, isFirst: Bool) -> String {
        let layer = disk.layerNumber(atDepth: run.layer)
        if isJSON { return (isFirst ? "" : ",\n ") + Self.json(run, layer: layer).line }
        let (place, offset, file) =
            switch run.place {
            case .data(let file, let offset): ("data", String(offset), file)
            case .encoded(let file, let offset, let length): ("encoded", "\(offset)+\(length)", file)
            case .zero: ("zero", "-", "-")
            case .hole: ("hole", "-", "-")
            case .missing: ("missing", "-", "-")
            }
        return columns.line(
            String(run.range.lower), String(run.range.length), place, layer.map(String.init) ?? "?", offset,
            Printable.line(file))
    }

    /// A run with the members of `qemu-img map --output=json`, the file's name, the place by its own word, and the layer by
    /// the number that it has everywhere else, or null where the base is missing.
    static func json(_ run: MappedRun, layer: Int?) -> JSONText {
        var members: [(String, JSONText)] = [
            ("start", .number(run.range.lower)),
            ("length", .number(run.range.length)),
            ("depth", .number(UInt64(max(0, run.layer)))),
            ("layer", layer.map { .number(UInt64($0)) } ?? .null),
        ]
        func add(present: Bool, zero: Bool, data: Bool, place: String, compressed: Bool = false) {
            members += [
                ("present", .bool(present)), ("zero", .bool(zero)), ("data", .bool(data)),
                ("compressed", .bool(compressed)), ("place", .string(place)),
            ]
        }
        switch run.place {
        case .data(let file, let offset):
            add(present: true, zero: false, data: true, place: "data")
            members += [("offset", .number(offset)), ("file", .string(file))]
        case .encoded(let file, let offset, let length):
            add(present: true, zero: false, data: true, place: "encoded", compressed: true)
            members += [
                ("storedOffset", .number(offset)), ("storedLength", .number(UInt64(length))), ("file", .string(file)),
            ]
        case .zero: add(present: true, zero: true, data: false, place: "zero")
        case .hole: add(present: false, zero: true, data: false, place: "hole")
        case .missing: add(present: false, zero: false, data: false, place: "missing")
        }
        return .object(members)
    }
}

/// The columns of a map. Runs are written as they are found, so the widths come from what the numbers can be at most.
private struct MapColumns {
    private let number: Int
    private let offset: Int

    init(_ disk: Disk) {
        number = max("length".count, String(disk.size).count)
        // The longest stored unit is that of a cluster of 2 MiB.
        let stored = disk.layers.contains { $0.hasStoredUnits } ? "+2097152".count : 0
        offset = max("offset".count, String(disk.largestFile).count + stored)
    }

    /// A line of the map: numbers to the right, words to the left.
    func line(
        _ start: String, _ length: String, _ place: String, _ layer: String, _ offset: String, _ file: String
    ) -> String {
        let cells = [
            Self.right(start, number), Self.right(length, number), Self.left(place, "encoded".count),
            Self.right(layer, "layer".count), Self.right(offset, self.offset), file,
        ]
        return cells.joined(separator: "  ") + "\n"
    }

    private static func right(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.utf8.count)) + text
    }

    private static func left(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.utf8.count))
    }
}
