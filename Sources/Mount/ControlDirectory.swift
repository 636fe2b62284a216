internal import Disk
internal import Formats
internal import Glibc
internal import Storage
internal import Synchronization

/// `.platter` in the root of the mount: what the server says about itself.
final class ControlDirectory: DirectoryContent {
    static let name = Name(".platter".utf8)
    private static let statusName = Name("status.json".utf8)
    let timeout = 1.0
    private let context: MountContext

    init(_ context: MountContext) { self.context = context }

    static func entry(_ context: MountContext) -> Entry {
        Entry(name, .control(name), isDirectory: true) { .directory(ControlDirectory(context)) }
    }

    func entries() throws(ImageError) -> [Entry] {
        let context = context
        return [Entry(Self.statusName, .control(Self.statusName), isDirectory: false) { .file(StatusFile(context)) }]
    }

    func entry(named name: Name) throws(ImageError) -> Entry? { try entries().first { $0.name == name } }

    func attributes() throws(ImageError) -> FileAttributes { context.ownAttributes(isDirectory: true) }
}

/// `.platter/status.json`: made anew at each open.
final class StatusFile: FileContent {
    let timeout = 0.0
    private let context: MountContext

    init(_ context: MountContext) { self.context = context }

    func attributes() throws(ImageError) -> FileAttributes {
        var result = context.ownAttributes(isDirectory: false)
        result.size = UInt64(text(forOwner: true).count)
        result.blocks = 1
        return result
    }

    func open(_ mode: OpenMode) throws(ImageError) -> OpenFile {
        if mode.isWriting { throw context.options.isWritable ? .fileForReading : .mountedForReading }
        return OpenFile(text: text(forOwner: mode.isOwner))
    }

    /// The text. What is wrong with the images tells of files that only the owner of the mount may know about.
    private func text(forOwner: Bool) -> [UInt8] {
        let options = context.options
        let enabled = ViewKind.allCases.filter { $0.isWanted(options) }.map { quoted("\($0)") }
        var lines = [
            "\"version\": \(quoted(options.version))", "\"pid\": \(getpid())",
            "\"source\": \(quoted(options.source))", "\"mountpoint\": \(quoted(options.mountpoint))",
            "\"mode\": \(quoted(options.isDirectoryMode ? "directory" : "image"))",
            "\"access\": \(quoted(options.isWritable ? "read-write" : "read-only"))",
            "\"views\": [\(enabled.joined(separator: ", "))]",
            "\"options\": [\(options.kernelMountOptions.map(quoted).joined(separator: ", "))]",
        ]
        lines.append(array("images", context.imagesOpen().compactMap(line).sorted()))
        if forOwner {
            let (broken, isCut) = context.broken.all()
            lines.append(
                array("broken", broken.map { "{\"path\": \(quoted($0.path)), \"error\": \(quoted($0.error))}" }))
            lines.append("\"moreBroken\": \(isCut)")
        }
        return Array("{\n  \(lines.joined(separator: ",\n  "))\n}\n".utf8)
    }

    private func array(_ name: String, _ elements: [String]) -> String {
        elements.isEmpty ? "\"\(name)\": []" : "\"\(name)\": [\n    \(elements.joined(separator: ",\n    "))\n  ]"
    }

    private func line(_ image: ImageFile) -> String? {
        guard let (disk, users) = image.status() else { return nil }
        let counters = image.counters
        let format = disk.layers.first.map { $0.shape.formatName } ?? "?"
        let fields = [
            "\"path\": \(quoted(disk.name))", "\"format\": \(quoted(format))", "\"size\": \(disk.size)",
            "\"layers\": \(disk.layers.count)", "\"open\": \(users)",
            "\"reads\": \(counters.reads.load(ordering: .relaxed))",
            "\"bytes\": \(counters.bytes.load(ordering: .relaxed))",
            "\"errors\": \(counters.errors.load(ordering: .relaxed))", "\"writable\": \(disk.isWritable)",
            "\"writes\": \(counters.writes.load(ordering: .relaxed))",
            "\"bytesWritten\": \(counters.bytesWritten.load(ordering: .relaxed))",
            "\"uncommitted\": \(image.isUncommitted)",
        ]
        return "{\(fields.joined(separator: ", "))}"
    }

    /// A JSON string.
    private func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
