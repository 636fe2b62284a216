internal import Storage

extension DiskOptions {
    /// What keeps other programs from changing a file while it is open.
    enum Protection {
        /// QEMU's byte locks are held.
        case locked
        /// Nothing: the filesystem has no locks, or none are wanted.
        case none
        /// Nothing, as the user wants it, or since somebody writes the file: then with who that is.
        case shared(with: ImageError?)
    }

    /// Takes the locks of a reader or a writer, as far as the options want them, and brings the size up to date. Throws
    /// `.busy` and `.io`.
    func protect(_ file: FileStorage, forWriting: Bool = false) throws(ImageError) -> Protection {
        guard lock else { return .none }
        var protection = Protection.none
        if sharing == .forced, !forWriting {
            protection = .shared(with: FileLock.conflict(withReading: file))
        } else {
            do throws(ImageError) {
                let isLocked = try forWriting ? FileLock.lockForWriting(file) : FileLock.lockForReading(file)
                protection = isLocked ? .locked : .none
            } catch {
                guard error.kind == .busy, sharing == .whileBusy, !forWriting else { throw error }
                protection = .shared(with: error)
            }
        }
        // Whoever held the image until now may have changed it, and its size, after we opened it.
        if forWriting { try file.readyForWriter() }
        try file.refresh()
        return protection
    }
}

extension ImageError {
    /// The line of the log about a file that is read while another program, which this error names, writes it.
    func warningOfSharing(_ file: String) -> String {
        let who = detail.map { " (\($0))" } ?? ""
        return "\(file): read without locks while another program has it open\(who); what is read may be torn"
    }
}
