package import Formats
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
            let isLocked = try lock(image, options, repairs)
            let format = try ChainOpener.format(of: image, named: options.format)
            // The data of a guest is nothing that a repair changes.
            let companions = Companions(gate: gate, image: image, trusted: true)
            defer { for file in companions.opened { file.close() } }
            let request = OpenRequest(
                storage: image, companions: companions, options: options.formatOptions, isWritable: repairs)
            return Checked(
                format: format.name, report: try format.check(request, repairs: repairs), isLocked: isLocked)
        } catch { throw error.named(path) }
    }

    private static func lock(
        _ image: FileStorage, _ options: DiskOptions, _ repairs: Bool
    ) throws(ImageError) -> Bool {
        guard options.lock else { return false }
        let isLocked = repairs ? try FileLock.lockForWriting(image) : try FileLock.lockForReading(image)
        // Whoever held the image until now may have changed it, and its size, after we opened it.
        if repairs { try image.readyForWriter() }
        try image.refresh()
        return isLocked
    }
}
