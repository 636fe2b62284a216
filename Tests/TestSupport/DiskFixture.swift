package import Disk
package import Formats
internal import Logging
package import Storage

/// An image, or a chain of them, that campaigns open, write and cut the power of. What a test of a format has to give:
///
///     let fixture = try DiskFixture.created(VHDX.self, size: 8 << 20, options: ["block_size": "1M"])
///     try PowerCutCampaign(fixture).run()
///     try FaultCampaign(fixture).run()
///     try ThreadCampaign(fixture).run()
///
/// or, for files that came from elsewhere and for chains, `DiskFixture(name:images:)` with the topmost image first.
package struct DiskFixture: Sendable {
    /// One file.
    package struct File: Sendable {
        /// The name under which the formats see it.
        package var name: String
        /// What it holds when a campaign begins.
        package var content: SparseBytes

        /// Makes a file of its parts.
        package init(name: String, content: SparseBytes) {
            self.name = name
            self.content = content
        }
    }

    /// What failures call it.
    package var name: String
    /// The files, that of the topmost image first.
    package var files: [File]
    /// Opens the disk on these files, for writing or for reading.
    package var open: @Sendable ([any Storage], Bool) throws -> Disk
    /// Checks the image that is written.
    package var check: @Sendable ([any Storage]) throws -> CheckReport
    /// Asks somebody else about a state; called for a sample of them.
    package var oracle: (@Sendable ([SparseBytes]) throws -> Void)?

    /// Makes a fixture of its parts.
    package init(
        name: String, files: [File], open: @escaping @Sendable ([any Storage], Bool) throws -> Disk,
        check: @escaping @Sendable ([any Storage]) throws -> CheckReport
    ) {
        self.name = name
        self.files = files
        self.open = open
        self.check = check
    }

    /// A chain of images, the topmost first, each a file of its own; `extra` are files that the topmost one names (an
    /// external data file), found by their names.
    package init(
        name: String, images: [(format: any ImageFormat.Type, content: SparseBytes)], extra: [File] = [],
        options: FormatOptions = FormatOptions(cacheBytes: 256 << 10)
    ) {
        let formats = images.map(\.format)
        let files =
            images.enumerated().map {
                File(name: "\($0.offset).\($0.element.format.name)", content: $0.element.content)
            }
            + extra
        self.init(name: name, files: files) { storages, isWritable in
            // As a real file does when it is opened for writing: what is read may be in memory only, left there by a
            // program that was killed before its barrier.
            if isWritable {
                for index in storages.indices where index == 0 || index >= formats.count { try storages[index].flush() }
            }
            var opened: [(path: String, driver: any FormatDriver)] = []
            for (index, format) in formats.enumerated() {
                let request = OpenRequest(
                    storage: storages[index], companions: NamedFiles(files: Array(storages.dropFirst(formats.count))),
                    options: options, isWritable: isWritable && index == 0)
                opened.append((storages[index].name, try format.open(request)))
            }
            return try Disk.assemble(opened, name: name, options: .silent(isWritable: isWritable))
        } check: { storages in
            let request = OpenRequest(
                storage: storages[0], companions: NamedFiles(files: Array(storages.dropFirst(formats.count))),
                options: options)
            do { return try formats[0].check(request, repairs: false) } catch let error as ImageError {
                // A format that keeps no metadata has nothing that could be checked.
                if error.kind == .unsupported, formats[0].name == "raw" { return CheckReport() }
                throw error
            }
        }
    }

    /// An empty image as the format's own `create` makes it.
    package static func created(
        _ format: any ImageFormat.Type, size: UInt64, options: [String: String] = [:]
    ) throws -> DiskFixture {
        let content = try image(format, size: size, options: options)
        let text = options.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        return DiskFixture(name: format.name + text, images: [(format, content)])
    }

    /// The content of an empty image as the format's own `create` makes it, with a parent where `parent` says so.
    package static func image(
        _ format: any ImageFormat.Type, size: UInt64, options: [String: String] = [:],
        parent: CreateRequest.Parent? = nil
    ) throws -> SparseBytes {
        let machine = PowerCutMachine([SparseBytes()])
        try format.create(
            CreateRequest(storage: machine.storages[0], virtualSize: size, options: options, parent: parent))
        return machine.contents[0]
    }
}

/// Gives an image the files that it names, by the last component of the name.
private struct NamedFiles: CompanionOpener {
    let files: [any Storage]

    func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        let last = name.split(separator: "/").last.map(String.init) ?? name
        guard let file = files.first(where: { $0.name == last }) else {
            throw ImageError(.missing, "the data file is missing", detail: name)
        }
        return file
    }
}

extension DiskOptions {
    /// Options of a disk whose log goes nowhere.
    package static func silent(isWritable: Bool) -> DiskOptions {
        DiskOptions(
            isWritable: isWritable, lock: false, log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            decodeCacheBytes: 1 << 20)
    }
}
