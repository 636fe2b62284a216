internal import Bytes
package import Formats
internal import Storage

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

    let driver: any FormatDriver
    /// The index of the image's slot 0 in the disk's table of files.
    let firstFile: UInt16

    /// The same image shown by another driver of it: a snapshot.
    func shown(by other: any FormatDriver) -> Layer {
        Layer(path: path, driver: other, firstFile: firstFile)
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

    init(_ table: [any Storage], decoded: DecodeCache, reporter: FailureReporter, writer: Writer? = nil) {
        self.table = table
        self.decoded = decoded
        self.reporter = reporter
        self.writer = writer
    }

    deinit {
        for file in table { file.close() }
    }
}
