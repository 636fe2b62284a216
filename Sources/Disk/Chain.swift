internal import Bytes
package import Formats
package import Storage

/// One image of a chain, for `info` and for the files of `-o layers`.
package struct Layer: Sendable {
    /// The image's path as it was opened.
    package let path: String
    /// Sizes, facts and remarks.
    package let shape: DiskShape
    /// The parent as the image names it, or nil for a base.
    package let parent: ParentReference?
    /// Every file of the image: itself, and an external data file.
    package let files: [String]

    /// Why the parent could not be opened; nil where there is none, or it is the next layer.
    package var missingParent: ImageError?
    /// Whether parts of the image may be stored compressed.
    package var hasStoredUnits: Bool { driver.decoder != nil }

    let driver: any FormatDriver
    /// The index of the image's slot 0 in the disk's table of files.
    let firstFile: UInt16

    /// The same image shown by another driver of it: a snapshot.
    func shown(by other: any FormatDriver) -> Layer {
        var layer = Layer(path: path, driver: other, firstFile: firstFile)
        layer.missingParent = missingParent
        return layer
    }

    /// The bytes that the host has allocated for the files of this image alone. Throws `.io`.
    package func allocatedBytes() throws(ImageError) -> UInt64 {
        var sum: UInt64 = 0
        for file in driver.files { sum = sum.checkedAdding(try file.allocatedBytes()) ?? .max }
        return sum
    }

    init(path: String, driver: any FormatDriver, firstFile: UInt16) {
        self.path = path
        self.driver = driver
        self.firstFile = firstFile
        shape = driver.shape
        parent = driver.parent
        files = driver.files.map(\.name)
    }
}

/// The open files of one image and everything below it, shared by every disk that shows a part of them. The files are
/// closed when the last of those goes.
final class OpenFiles: Sendable {
    /// Every file of every layer, the image's own first.
    let table: [any Storage]
    /// Decoded units, for all views.
    let decoded: DecodeCache
    /// Where failures are reported, for all views.
    let reporter: FailureReporter
    /// What writes into the topmost image; nil where that is only read.
    let writer: Writer?
    /// Whether other programs may be writing the files, which then may have grown.
    private let isShared: Bool
    /// The unit of the partition table in bytes as the user named it; nil to find it.
    let tableSectorSize: UInt64?

    init(
        _ table: [any Storage], decoded: DecodeCache, reporter: FailureReporter, writer: Writer? = nil,
        isShared: Bool = false, tableSectorSize: UInt64? = nil
    ) {
        self.isShared = isShared
        self.table = table
        self.decoded = decoded
        self.reporter = reporter
        self.writer = writer
        self.tableSectorSize = tableSectorSize
    }

    deinit {
        for file in table { file.close() }
    }

    /// Looks whether a file has grown that another program is writing. Throws `.io`.
    func haveGrown() throws(ImageError) -> Bool {
        guard isShared else { return false }
        var result = false
        for case let file as FileStorage in table where try file.grow() { result = true }
        return result
    }
}
