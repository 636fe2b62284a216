internal import SystemPackage

extension ImageError.Kind {
    /// The error number that a program sees when nothing more exact is known.
    package var defaultErrno: Int32 {
        switch self {
        case .io, .malformed, .corrupt: Errno.ioError.rawValue
        case .unsupported: Errno.notSupported.rawValue
        case .outOfRange: Errno.invalidArgument.rawValue
        case .readOnly: Errno.readOnlyFileSystem.rawValue
        case .noSpace: Errno.noSpace.rawValue
        case .busy: Errno.resourceBusy.rawValue
        case .denied: Errno.permissionDenied.rawValue
        case .missing: Errno.noSuchFileOrDirectory.rawValue
        }
    }
}

extension ImageError: CustomStringConvertible {
    /// One line for a person: file, what is wrong, the detail, the place, and the host's own words where it failed.
    package var description: String {
        var text = ""
        if let file { text += "\(file): " }
        text += "\(what)"
        if let detail { text += " (\(detail))" }
        if let offset { text += " at byte \(offset)" }
        if kind == .io || kind == .noSpace { text += ": \(Errno(rawValue: errno))" }
        return text
    }
}
