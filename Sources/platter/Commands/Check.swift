internal import Bytes
internal import Disk
internal import Formats
internal import Logging
internal import Storage

/// The options of `check`.
struct CheckSettings: HasImageSettings {
    var image = ImageSettings()
    var isJSON = false
    var repairs = false
    var checksChain = false
    var isVerbose = false
}

extension OptionTable where Settings == CheckSettings {
    /// The options of `platter check`.
    static let check = OptionTable(
        command: "check",
        options: [
            .toggle(["--repair"], help: "repair what is safe to repair") { $0.repairs = true },
            .toggle(["--chain"], help: "check the images below it too; those are never repaired") {
                $0.checksChain = true
            },
            .toggle(["-v", "--verbose"], help: "list every place of a finding, not only the first three") {
                $0.isVerbose = true
            },
            .toggle(["--json"], help: "write JSON") { $0.isJSON = true },
            .shareOption,
            Option(["-f"], value: "FORMAT", help: nil) { settings, value, name throws(Failure) in
                guard let format = Registry.format(named: value) else {
                    throw .usage("there is no format '\(value)'", command: "check")
                }
                settings.image.format = format.name
            },
        ] + Option.imageOptions)
}

extension Command {
    /// `platter check`.
    static let check: Command = {
        let synopsis = "check [--repair] [--chain] [-v] [--json] [-o OPTION[,OPTION...]] IMAGE"
        let help = { @Sendable in
            helpText(
                synopsis,
                """
                Looks for everything that can be wrong in an image. The exit status is that of qemu-img check:
                0 clean, 1 could not be checked, 2 corruption, 3 only leaks, 63 not possible for this kind of image.
                """,
                options: OptionTable.check.helpText)
        }
        return Command(
            name: "check", synopsis: synopsis, summary: "look for damage in an image, and repair it", help: help
        ) { arguments throws(Failure) in
            try parsing(.check, CheckSettings(), arguments, help: help) { settings, operands throws(Failure) in
                try ImageCheck(settings, path: InspectSettings.image(operands, command: "check")).run()
            }
        }
    }()
}

/// One run of `platter check`.
struct ImageCheck {
    private let settings: CheckSettings
    private let path: String
    private let options: DiskOptions

    init(_ settings: CheckSettings, path: String) throws(Failure) {
        self.settings = settings
        self.path = path
        if settings.repairs, settings.image.forcesShare {
            throw .usage(
                "'--repair' changes the image and '--force-share' looks at one in use; say one of them",
                command: "check")
        }
        options = try settings.image.diskOptions(log: Log.make(.standardError, level: .warning))
    }

    /// Checks, prints what was found, and says how bad it is.
    func run() throws(Failure) -> ExitStatus {
        var reports = [
            CheckedImage(path: path, checked: try check(path, options, repairs: settings.repairs, after: []))
        ]
        if settings.checksChain {
            for layer in try layers().dropFirst() {
                let options = options.pinned(to: layer.shape.formatName)
                reports.append(
                    CheckedImage(
                        path: layer.path, checked: try check(layer.path, options, repairs: false, after: reports)))
            }
        }
        let missing = Disk.missingParent(path: path, options: options)
        reports[reports.count - 1].missingParent = missing
        if settings.isJSON {
            try say(text(of: reports.map(\.json)))
        } else {
            try say(reports.map { $0.text(isVerbose: settings.isVerbose) }.joined(separator: "\n"))
        }
        let statuses = reports.map(\.status)
        if statuses.contains(.corruption) { return .corruption }
        // Whoever asked for the chain has not got all of it.
        if settings.checksChain, missing != nil { return .unchecked }
        return statuses.contains(.leaks) ? .leaks : .success
    }

    /// Prints the findings: all that a check is for, but not all of a repair.
    private func say(_ text: String) throws(Failure) {
        if settings.repairs { Output.tell(text) } else { try Output.print(text, orFail: .unchecked) }
    }

    /// The one value that a program reads.
    private func text(of objects: [JSONText]) -> String {
        (settings.checksChain ? .array(objects) : objects[0]).text + "\n"
    }

    /// Checks one image. Where its kind cannot be checked, a program gets what was found in the images above it, `reports`,
    /// before the failure.
    private func check(
        _ path: String, _ options: DiskOptions, repairs: Bool, after reports: [CheckedImage]
    ) throws(Failure) -> Disk.Checked {
        do throws(ImageError) {
            let checked = try Disk.check(path: path, options: options, repairs: repairs)
            if !checked.isLocked {
                Output.report(
                    Failure(.success, "\(path): checked without locks; nothing kept others from writing"))
            }
            return checked
        } catch {
            // A directory is unsupported too, and no kind of image.
            let isKind = error.kind == .unsupported && error.errno == ImageError.Kind.unsupported.defaultErrno
            if isKind, settings.isJSON {
                try say(text(of: reports.map(\.json) + [unsupportedJSON(error, path, options)]))
            }
            throw Failure(isKind ? .unsupported : .unchecked, error, path: path)
        }
    }

    /// What a program gets about an image that is of a kind that cannot be checked.
    private func unsupportedJSON(_ error: ImageError, _ path: String, _ options: DiskOptions) -> JSONText {
        var options = options
        options.acceptsMissingParent = true
        options.log = Logger(label: "platter") { _ in SwiftLogNoOpLogHandler() }
        let format = (try? Disk.open(path: path, options: options))?.layers.first?.shape.formatName
        return CheckedImage.json(path, format: format, error: Failure.words(for: error.named(path)))
    }

    private func layers() throws(Failure) -> [Layer] {
        var options = options
        options.acceptsMissingParent = true
        do throws(ImageError) { return try Disk.open(path: path, options: options).layers } catch {
            throw Failure(.unchecked, error, path: path)
        }
    }
}

/// What `platter check` says about one image.
struct CheckedImage {
    let path: String
    let checked: Disk.Checked
    /// Why what lies below it, which nobody checked, cannot be opened.
    var missingParent: ImageError?

    private var report: CheckReport { checked.report }

    /// How bad it is, as qemu-img check counts: what is left after repairs.
    var status: ExitStatus {
        if report.corruptions > 0 { return .corruption }
        return report.leaks > 0 ? .leaks : .success
    }

    /// For programs, about an image that was not checked: the same keys.
    static func json(_ path: String, format: String?, error: String) -> JSONText {
        let counts = ["corruptions", "leaks", "corruptionsRepaired", "leaksRepaired", "allocatedBytes", "imageEnd"]
        return .object(
            [("image", .string(path)), ("format", format.map { .string($0) } ?? .null), ("error", .string(error))]
                + counts.map { ($0, .null) } + [("inUse", .null), ("parentError", .null), ("findings", .array([]))])
    }

    /// For programs.
    var json: JSONText {
        .object([
            ("image", .string(path)), ("format", .string(checked.format)), ("error", .null),
            ("corruptions", .number(report.corruptions)), ("leaks", .number(report.leaks)),
            ("corruptionsRepaired", .number(report.corruptionsRepaired)),
            ("leaksRepaired", .number(report.leaksRepaired)),
            ("allocatedBytes", .number(report.allocatedBytes)), ("imageEnd", .number(report.imageEnd)),
            ("inUse", .bool(checked.isInUse)),
            ("parentError", missingParent.map { .string(Failure.words(for: $0)) } ?? .null),
            ("findings", .array(findings.map(Self.json))),
        ])
    }

    /// The findings, the worst first.
    private var findings: [CheckReport.Finding] {
        CheckReport.Severity.allCases.flatMap { severity in report.findings.filter { $0.severity == severity } }
    }

    private static func json(_ finding: CheckReport.Finding) -> JSONText {
        .object([
            ("severity", .string(finding.severity.rawValue)), ("what", .string(finding.what)),
            ("count", .number(finding.count)), ("offset", finding.offset.map { .number($0) } ?? .null),
            ("repaired", .bool(finding.isRepaired)),
            (
                "places",
                .array(
                    finding.places.map { place in
                        .object([
                            ("entry", place.entry.map { .string($0) } ?? .null),
                            ("offset", place.offset.map { .number($0) } ?? .null),
                            ("detail", place.detail.map { .string($0) } ?? .null),
                        ])
                    })
            ),
        ])
    }

    /// For people: a line for each kind of finding, with all its places behind it where `isVerbose` says so, and one for
    /// the sum.
    func text(isVerbose: Bool) -> String {
        var lines = findings.flatMap { Self.lines($0, isVerbose: isVerbose) }
        if checked.isInUse {
            lines.append("note: a program is writing the image; what was found may be a change half made")
        }
        if let missingParent {
            let reason = Printable.line(Failure.words(for: missingParent))
            lines.append("note: what lies below cannot be opened: \(reason)")
        }
        lines.append("\(Printable.line(path)): \(summary)")
        return lines.map { $0 + "\n" }.joined()
    }

    private static func lines(_ finding: CheckReport.Finding, isVerbose: Bool) -> [String] {
        var line = "\(finding.severity.rawValue): \(Printable.line(finding.what))"
        if finding.count > 1 { line += ", \(finding.count.counted("time"))" }
        if finding.isRepaired { line += " (repaired)" }
        let isList = isVerbose && finding.count > 1
        let shown = finding.places.prefix(isList ? finding.places.count : 3).map(text)
        let more = finding.count - min(finding.count, UInt64(shown.count))
        let rest = more == 0 || shown.isEmpty ? [] : ["and \(more) more"]
        if isList { return [line] + (shown + rest).map { "    " + $0 } }
        return [([line] + (shown.isEmpty ? [] : [(shown + rest).joined(separator: "; ")])).joined(separator: ": ")]
    }

    /// "BAT entry 12 (byte 0x630), names 0x8000".
    private static func text(_ place: CheckReport.Place) -> String {
        let byte = place.offset.map { "byte \(CheckReport.hex($0))" }
        let name = place.entry.map { entry in entry + (byte.map { " (\($0))" } ?? "") } ?? byte
        return Printable.line([name, place.detail].compactMap { $0 }.joined(separator: ", "))
    }

    private var summary: String {
        var parts: [String] = []
        if report.corruptions > 0 { parts.append(report.corruptions.counted("corruption")) }
        if report.leaks > 0 { parts.append(report.leaks.counted("leak")) }
        if parts.isEmpty { parts.append("clean") }
        let repaired = report.corruptionsRepaired + report.leaksRepaired
        if repaired > 0 { parts.append(repaired.counted("repair") + " made") }
        let size = Printable.size(report.allocatedBytes)
        return parts.joined(separator: ", ") + "; \(checked.format), \(size) of its disk allocated"
    }
}
