internal import Bytes
package import Formats
package import Storage
internal import Synchronization

/// An image that is to be made: what `platter create` and a new overlay need.
package struct NewImage: Sendable {
    /// The image that a differencing child is made on.
    package struct Parent: Sendable {
        /// Its path as the user typed it.
        package var path: String
        /// How it is opened to learn its size and identity; its `format` is the one that the child records.
        package var options: DiskOptions
        /// The name that the child records, or nil for the path from the new image's directory.
        package var recorded: String?

        /// Makes a parent of its parts.
        package init(path: String, options: DiskOptions, recorded: String? = nil) {
            self.path = path
            self.options = options
            self.recorded = recorded
        }
    }

    /// Where it will be.
    package var path: String
    /// Its format.
    package var format: any ImageFormat.Type
    /// The size of its disk in bytes; nil for that of the parent.
    package var size: UInt64?
    /// The format's own options.
    package var options: [String: String]
    /// The image below it, or nil.
    package var parent: Parent?
    /// Whether a file that is at `path` already is replaced.
    package var replaces: Bool

    /// Makes a description of its parts.
    package init(
        path: String, format: any ImageFormat.Type, size: UInt64?, options: [String: String] = [:],
        parent: Parent? = nil, replaces: Bool = false
    ) {
        self.path = path
        self.format = format
        self.size = size
        self.options = options
        self.parent = parent
        self.replaces = replaces
    }

    /// Makes the image and returns the size of its disk. It appears under its name only when all of it is on the medium.
    /// Throws what opening the parent throws, what the format's `create` throws, and what `NewFile` throws.
    package func make() throws(ImageError) -> UInt64 {
        // The parent stays open, and locked against writers, until the child exists.
        let below = try parent.map { (parent) throws(ImageError) -> Disk in
            do throws(ImageError) { return try Disk.open(path: parent.path, options: parent.options) } catch {
                guard error.kind == .busy else {
                    guard case .newParent = parent.options.formatOption else { throw error }
                    throw ParentAdvice.forNewChild(error)
                }
                throw ImageError(
                    .busy, "another program is writing to the parent; stop it first, or make the child of a copy",
                    detail: error.detail, file: error.file)
            }
        }
        guard let size = size ?? below?.size else {
            throw ImageError(.outOfRange, "a size is needed where there is no parent", file: path)
        }
        if let below { try check(apartFrom: below) }
        let files = NewFiles(image: path, replaces: replaces)
        let target = try files.begin(path)
        let request = CreateRequest(
            storage: target, deviceBytes: (target as? NewDevice)?.deviceBytes, virtualSize: size, options: options,
            parent: try parentRequest(below),
            makeFile: { (name) throws(ImageError) in try files.begin(named: name) })
        do throws(ImageError) { try format.create(request) } catch { throw error.named(path) }
        try files.keep()
        withExtendedLifetime(below) {}
        return size
    }

    /// Throws where the new image would take the place of one that it is made on.
    private func check(apartFrom below: Disk) throws(ImageError) {
        guard let target = HostPath.real(path) else { return }
        for file in below.layers.flatMap(\.files) where HostPath.real(file) == target {
            throw ImageError(.denied, "the new image would replace its own parent; choose another name", file: path)
        }
    }

    private func parentRequest(_ below: Disk?) throws(ImageError) -> CreateRequest.Parent? {
        guard let parent, let below, let absolute = HostPath.real(parent.path) else { return nil }
        let directory = HostPath.real(PathText.directory(of: HostPath.absolute(path))) ?? "/"
        let recorded = parent.recorded ?? PathText.relative(from: directory, to: absolute)
        let modified = try below.stamps().first?.modified ?? 0
        return CreateRequest.Parent(
            absolutePath: absolute, recordedPath: recorded, shape: below.layers[0].shape,
            modified: modified / 1_000_000_000, storage: below.layers[0].driver.files.first)
    }
}

/// The files of an image that is being made, none of which has a name yet.
private final class NewFiles: Sendable {
    private let image: String
    private let replaces: Bool
    private let files = Mutex<[any NewTarget]>([])

    init(image: String, replaces: Bool) {
        self.image = image
        self.replaces = replaces
    }

    func begin(_ path: String) throws(ImageError) -> any Storage {
        let file: any NewTarget =
            NewDevice.isDevice(path)
            ? try NewDevice(path: path, replaces: replaces) : try NewFile(path: path, replaces: replaces)
        files.withLock { $0.append(file) }
        return file.bytes
    }

    /// Begins a file that the image will name, which is relative to the image's directory as it is at every open.
    func begin(named name: String) throws(ImageError) -> any Storage {
        let path = PathText.join(PathText.directory(of: HostPath.absolute(image)), name)
        guard path != PathText.join("/", HostPath.absolute(image)) else {
            throw ImageError(.denied, "the image and its data file have one name", file: image)
        }
        return try begin(path)
    }

    /// Gives all of them their names, the image's own last: before it nothing refers to the others.
    func keep() throws(ImageError) {
        var kept: [any NewTarget] = []
        for file in files.withLock({ Array($0.reversed()) }) {
            do throws(ImageError) { try file.keep() } catch {
                // What was replaced is gone anyway; what was not there before is taken away again.
                if !replaces { for file in kept { file.remove() } }
                throw error
            }
            kept.append(file)
        }
    }
}

extension PathText {
    /// The way from one normalised absolute directory to a file: "../base/win.vhdx".
    static func relative(from directory: String, to path: String) -> String {
        let from = directory.split(separator: "/")
        let to = path.split(separator: "/")
        var shared = 0
        while shared < from.count, shared < to.count - 1, from[shared] == to[shared] { shared += 1 }
        return ([Substring](repeating: "..", count: from.count - shared) + to[shared...]).joined(separator: "/")
    }
}
