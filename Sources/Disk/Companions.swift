internal import Formats
internal import Storage
internal import Synchronization

/// Opens what an image names besides its parent, through the gate.
final class Companions: CompanionOpener {
    private let gate: OpenGate
    private let image: FileStorage
    private let trusted: Bool
    private let isWritable: Bool
    private let allowsWriting: Bool
    private let files = Mutex<[FileStorage]>([])

    /// For an image that is opened for writing (`isWritable`) only where the user `allowsWriting` to other files.
    init(gate: OpenGate, image: FileStorage, trusted: Bool, isWritable: Bool = false, allowsWriting: Bool = false) {
        self.allowsWriting = allowsWriting
        self.gate = gate
        self.image = image
        self.trusted = trusted
        self.isWritable = isWritable
    }

    /// The files that the image named and that were opened.
    var opened: [FileStorage] { files.withLock { $0 } }

    func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        guard trusted else { throw .guessNamesFiles }
        // Whoever made the image could have named any neighbour, and would write it through this disk.
        guard allowsWriting || !isWritable else {
            throw ImageError(
                .denied, "the image keeps its data in another file, which is written only with -o write-data-file",
                detail: name, file: image.name)
        }
        let path = ParentReference.Path(base: name.hasPrefix("/") ? .host : .image, text: name)
        var worst: OpenGate.Refusal?
        for candidate in try gate.candidates(path, namedBy: image.name) {
            do throws(OpenGate.Refusal) {
                let file = try gate.open(candidate, isWritable: isWritable)
                guard file.identity != image.identity else {
                    throw OpenGate.Refusal(
                        reason: .unusable,
                        error: ImageError(.corrupt, "the image names itself as its data file", file: image.name))
                }
                files.withLock { $0.append(file) }
                return file
            } catch {
                if error.reason.rawValue > worst?.reason.rawValue ?? -1 { worst = error }
            }
        }
        throw worst?.error ?? ImageError(.missing, "the data file is missing", detail: name, file: image.name)
    }
}
