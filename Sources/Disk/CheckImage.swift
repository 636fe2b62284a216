package import Formats
internal import Logging
package import Storage

extension Disk {
    /// What a check of one image found.
    package struct Checked: Sendable {
        /// The image's format, by registry name.
        package var format: String
        /// The findings.
        package var report: CheckReport
        /// Whether other programs were kept out meanwhile; false where the filesystem has no locks.
        package var isLocked: Bool
        /// Whether another program was writing the image: what was found may be a change half made.
        package var isInUse: Bool
    }

    /// Checks the image at `path` alone, not what lies below it, and repairs what is safe to repair where `repairs` says
    /// so. Nobody writes meanwhile; with `repairs` nobody reads either. Throws what keeps the image from being checked:
    /// `.missing`, `.denied`, `.readOnly`, `.busy`, `.malformed`, `.unsupported`, `.noSpace` or `.io`.
    package static func check(
        path: String, options: DiskOptions, repairs: Bool
    ) throws(ImageError) -> Checked {
        let gate = try OpenGate(image: path, allowed: options.allowedParents)
        let image = try FileStorage(path: path, isWritable: repairs)
        defer { image.close() }
        do throws(ImageError) {
            let protection = try options.protect(image, forWriting: repairs)
            let format = try options.format(ofImage: image)
            options.reportDoubt(about: image)
            // The data of a guest is nothing that a repair changes.
            let companions = Companions(gate: gate, image: image, trusted: true)
            defer { for file in companions.opened { file.close() } }
            let request = OpenRequest(
                storage: image, companions: companions, options: options.formatOptions, isWritable: repairs)
            let report = try format.check(request, repairs: repairs)
            var checked = Checked(format: format.name, report: report, isLocked: true, isInUse: false)
            switch protection {
            case .locked: break
            case .shared(_?): checked.isInUse = true
            case .none, .shared(nil): checked.isLocked = false
            }
            return checked
        } catch { throw error.named(path) }
    }

    /// Why what lies below the image at `path` cannot be opened; nil where all of it can, where there is nothing, and where
    /// the image itself cannot be opened. What is wrong with parents that the user named is told too.
    package static func missingParent(path: String, options: DiskOptions) -> ImageError? {
        var options = options
        (options.acceptsMissingParent, options.isWritable) = (true, false)
        options.sharing = .whileBusy
        options.log = Logger(label: "platter") { _ in SwiftLogNoOpLogHandler() }
        do throws(ImageError) { return try open(path: path, options: options).missingParent } catch {
            return options.parents.isEmpty ? nil : error
        }
    }
}
