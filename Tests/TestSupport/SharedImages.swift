internal import Glibc
internal import Synchronization

/// One image of the shared collection, as its manifest describes it.
package struct SharedImage: Sendable, CustomStringConvertible {
    /// What a correct reader does with the image.
    package enum Expectation: String, Sendable {
        /// Opens; the disk's content has `rawSHA256`.
        case equal
        /// The open fails with a clear reason.
        case refuse
        /// The damaged range reads as an error, never as other bytes.
        case error
        /// Anything but a crash, a hang, unbounded memory or foreign bytes.
        case safe
        /// Readers differ; what happens is documented.
        case policy
        /// A base or data file of another image.
        case companion
    }

    /// The file's name once unpacked; chains rely on it.
    package let name: String
    /// The compressed file's name in the collection.
    package let archive: String
    /// "vhdx", "vhd", "qcow2", "qcow1" or "raw".
    package let format: String
    /// What to expect of it.
    package let expect: Expectation
    /// The size of the virtual disk in bytes, where it has one.
    package let virtualSize: UInt64?
    /// The SHA-256 of the virtual disk, where the image is readable.
    package let rawSHA256: String?
    /// The SHA-256 of the unpacked file.
    package let fileSHA256: String
    /// The unpacked file's size in bytes; nil for a bundle.
    package let fileBytes: UInt64?
    /// The name of the file it depends on, if that is in the collection.
    package let parent: String?
    /// What else the collection's author knows.
    package let notes: String

    package var description: String { name }

    /// Whether this is a tar of many small images.
    package var isBundle: Bool { name.hasSuffix(".tar.xz") }

    /// Unpacks the image and all that it depends on, once a test process, and returns its path. A bundle's path is a
    /// directory.
    package func path() throws -> String { try SharedImages.unpack(self) }

    init?(_ entry: JSON, among names: Set<String>) {
        guard let name = entry["name"]?.string, let archive = entry["file"]?.string,
            let format = entry["format"]?.string, let expect = entry["expect"]?.string.flatMap(Expectation.init),
            let fileSHA256 = entry["file_sha256"]?.string
        else { return nil }
        self.name = name
        self.archive = archive
        self.format = format
        self.expect = expect
        self.fileSHA256 = fileSHA256
        virtualSize = entry["virtual_size"]?.uint64
        rawSHA256 = entry["raw_sha256"]?.string
        fileBytes = entry["file_bytes"]?.uint64
        notes = entry["notes"]?.string ?? ""
        // "data-file.bin (data file)": the remark is not part of the name.
        let parent = entry["parent"]?.string?.split(separator: " (").first.map(String.init)
        self.parent = parent.flatMap { names.contains($0) ? $0 : nil }
    }
}

/// The collection of images made by other software: `PLATTER_SHARED/images`, or `../shared/images` beside the package.
package enum SharedImages {
    /// What a skipped test says.
    package static let skipReason = "the shared images are not there (set PLATTER_SHARED to their parent directory)"

    /// The collection's directory, if it is there.
    package static let directory: String? = {
        let shared = getenv("PLATTER_SHARED").map { String(cString: $0) } ?? packageRoot + "/../shared"
        let images = shared + "/images"
        return HostFiles.exists(images + "/manifest.json") && Tool.has("xz") ? images : nil
    }()

    /// The directory of `Package.swift`.
    package static let packageRoot: String =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")

    /// For `.enabled(if: SharedImages.isPresent, SharedImages.skipReason)`.
    package static var isPresent: Bool { directory != nil }

    /// Every image of the manifest, in its order; empty where the collection is not there.
    package static let all: [SharedImage] = {
        guard let directory else { return [] }
        do {
            guard let entries = try JSON(parsing: HostFiles.read(directory + "/manifest.json")).array else {
                throw HostFailure("the manifest is not a list", errno: 0)
            }
            let names = Set(entries.compactMap { $0["name"]?.string })
            return try entries.map { entry in
                guard let image = SharedImage(entry, among: names) else {
                    throw HostFailure("the manifest has an entry that tests cannot use: \(entry)", errno: 0)
                }
                return image
            }
        } catch {
            preconditionFailure("\(error)")
        }
    }()

    /// The images with one of the given expectations, bundles left out.
    package static func images(_ expectations: SharedImage.Expectation...) -> [SharedImage] {
        all.filter { expectations.contains($0.expect) && !$0.isBundle }
    }

    /// The tars of many small images.
    package static var bundles: [SharedImage] { all.filter { $0.isBundle } }

    /// The image called `name`.
    package static func named(_ name: String) throws -> SharedImage {
        guard let image = all.first(where: { $0.name == name }) else {
            throw HostFailure("the collection has no image \(name)", errno: 0)
        }
        return image
    }

    // MARK: - Unpacking

    private static let unpacked = Mutex<[String: String]>([:])

    /// Where images are unpacked: removed at exit, as are those of test processes that were killed.
    private static let workspace: Result<TemporaryDirectory, any Error> = {
        atexit { if case .success(let directory) = SharedImages.workspace { HostFiles.removeTree(directory.path) } }
        return Result {
            let directory = try TemporaryDirectory("images")
            removeAbandoned(beside: directory.path)
            return directory
        }
    }()

    private static func removeAbandoned(beside path: String) {
        let parent = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        for name in (try? HostFiles.list(parent)) ?? [] where name.hasPrefix("platter-images.") {
            let parts = name.split(separator: ".")
            guard parts.count == 3, let pid = Int32(parts[1]), !HostFiles.exists("/proc/\(pid)") else { continue }
            HostFiles.removeTree("\(parent)/\(name)")
        }
    }

    fileprivate static func unpackLocked(_ image: SharedImage, _ done: inout [String: String]) throws -> String {
        if let path = done[image.name] { return path }
        if let parent = image.parent { _ = try unpackLocked(try named(parent), &done) }
        guard let directory else { throw HostFailure(skipReason, errno: 0) }
        let source = "\(directory)/\(image.archive)"
        let workspace = try workspace.get()
        let target: String
        if image.isBundle {
            target = workspace.file(String(image.name.dropLast(".tar.xz".count)))
            try runSuccessfully("mkdir", "-p", target)
            try runSuccessfully("tar", "-xJf", source, "-C", target)
        } else {
            target = workspace.file(image.name)
            // xz leaves holes where its output is a regular file of its own.
            let result = try run("xz", "-dc", source, outputFile: target, timeout: 120)
            guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
        }
        done[image.name] = target
        return target
    }

    static func unpack(_ image: SharedImage) throws -> String {
        try unpacked.withLock { done in try unpackLocked(image, &done) }
    }
}
