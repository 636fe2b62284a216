internal import CLinux
internal import Disk
internal import Glibc
internal import Storage

/// Where the symbolic links in a directory of images lead, and which of them are followed.
///
/// A link is followed to where its target really is, if that lies below the source, or, where the user wants links to be
/// followed, below one of the allowed directories. The file is then opened beneath that directory, by a path without links.
final class HostLinks: Sendable {
    /// What a link is in the mount.
    enum Target {
        /// A regular file, which may be an image.
        case file(HostPlace, HostFacts)
        /// Not followed, and why not.
        case refused(Refusal)
        /// A directory: a tree with links to directories has no end.
        case directory
        /// Something that is no image anywhere.
        case other
    }

    /// Why a link is not followed.
    struct Refusal: Sendable {
        /// What a person can do about it.
        enum Reason: Sendable {
            /// The target lies outside the source, and outside the allowed directories.
            case outside
            /// It lies below an allowed directory, and links are not followed.
            case allowed
            /// There is no target.
            case nowhere
            /// The server may not go where it leads.
            case closed
        }

        var reason: Reason
        /// Where the link leads, for people.
        var target: String
    }

    private let source: HostRoot
    private let follows: Bool
    private let allowed: [HostRoot]

    /// The links below `source`. Throws what opening one of the allowed directories throws.
    init(_ source: HostRoot, _ options: MountOptions) throws(ImageError) {
        self.source = source
        follows = options.followsLinks
        var allowed: [HostRoot] = []
        for directory in options.disk.allowedParents {
            allowed.append(try HostRoot(path: HostPath.real(directory) ?? directory))
        }
        self.allowed = allowed
    }

    /// Returns what the link at `place` leads to; nil where there is no link.
    func target(ofLinkAt place: HostPlace) -> Target? {
        guard let facts = try? place.facts(following: false), facts.mode & FileType.mask == FileType.link else {
            return nil
        }
        return target(of: place)
    }

    /// Returns what the link at `place` leads to.
    func target(of place: HostPlace) -> Target {
        let descriptor = place.openAnywhere(clinux_path_only)
        guard descriptor >= 0 else {
            let code = errno
            let reason: Refusal.Reason = code == ENOENT || code == ENOTDIR || code == ELOOP ? .nowhere : .closed
            return .refused(Refusal(reason: reason, target: place.linkText ?? "?"))
        }
        defer { close(descriptor) }
        guard let facts = try? HostPlace.facts(of: descriptor, place.text) else { return .other }
        switch facts.mode & FileType.mask {
        case FileType.directory: return .directory
        case FileType.regular: break
        default: return .other
        }
        if let real = HostPlace.realPath(of: descriptor) { return target(of: place, at: real, facts) }
        // Without /proc nobody can tell where it is, but the kernel still keeps it inside.
        var inside = place
        inside.target = HostPlace.Target(root: place.root, path: place.path, admitted: 0o700)
        if let now = try? inside.facts(), now.mode & FileType.mask == FileType.regular { return .file(inside, now) }
        return .refused(Refusal(reason: .outside, target: place.linkText ?? "?"))
    }

    /// Returns what a link to the regular file at `real`, which has no links in it, is.
    private func target(of place: HostPlace, at real: [UInt8], _ facts: HostFacts) -> Target {
        for root in [source] + (follows ? allowed : []) {
            guard let relative = Self.relative(real, to: root) else { continue }
            var followed = place
            followed.target = HostPlace.Target(
                root: root, path: relative, admitted: MountContext.admitted(to: real))
            // By the way that is used from here on; something else may be there by now.
            guard let now = try? followed.facts(), now.mode & FileType.mask == FileType.regular else { continue }
            return .file(followed, now)
        }
        let isAllowed = allowed.contains { Self.relative(real, to: $0) != nil }
        return .refused(
            Refusal(reason: isAllowed ? .allowed : .outside, target: String(decoding: real, as: UTF8.self)))
    }

    private static func relative(_ path: [UInt8], to root: HostRoot) -> [UInt8]? {
        let prefix = Array(root.path.utf8) + (root.path == "/" ? [] : [UInt8(ascii: "/")])
        guard path.count > prefix.count, path.starts(with: prefix) else { return nil }
        return Array(path.dropFirst(prefix.count))
    }
}

extension HostLinks.Refusal {
    /// The line for the log, about the link at `place`.
    func error(_ place: HostPlace, followsLinks: Bool) -> ImageError {
        let detail = "to \(target)"
        switch reason {
        case .nowhere:
            return ImageError(.denied, "the link leads nowhere", errno: EACCES, detail: detail, file: place.text)
        case .closed:
            return ImageError(
                .denied, "the link leads to where the server may not go", errno: EACCES, detail: detail,
                file: place.text)
        case .allowed:
            return ImageError(
                .denied, "the link leads out of the directory; -o follow-links follows it", errno: EACCES,
                detail: detail, file: place.text)
        case .outside where followsLinks:
            return ImageError(
                .denied, "the link leads out of the directory; --allow-parents DIR with its place follows it",
                errno: EACCES, detail: detail, file: place.text)
        case .outside:
            return ImageError(
                .denied, "the link leads out of the directory; -o follow-links with --allow-parents DIR follows it",
                errno: EACCES, detail: detail, file: place.text)
        }
    }
}

/// A symbolic link with an image's name that is not followed: a file that nobody may open.
final class RefusedLink: FileContent {
    let timeout = 1.0
    private let context: MountContext
    private let facts: HostFacts
    private let error: ImageError

    /// The link with these facts of its own; `error` says why it is not followed.
    init(_ context: MountContext, _ facts: HostFacts, _ error: ImageError) {
        self.context = context
        self.facts = facts
        self.error = error
    }

    func attributes() throws(ImageError) -> FileAttributes {
        var result = context.fileAttributes(facts, isWritable: false)
        (result.mode, result.lifetime) = (0, timeout)
        return result
    }

    func open(_ mode: OpenMode) throws(ImageError) -> OpenFile { throw error }
}
