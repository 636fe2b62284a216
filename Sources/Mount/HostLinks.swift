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
    /// The mount itself, an absolute path without links.
    private let mountpoint: [UInt8]

    /// The links below `source`. Throws what opening one of the allowed directories throws.
    init(_ source: HostRoot, _ options: MountOptions) throws(ImageError) {
        self.source = source
        follows = options.followsLinks
        mountpoint = Array((HostPath.real(options.mountpoint) ?? options.mountpoint).utf8)
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

    /// Links that lead to links are followed so many times.
    private static let mostHops = 16

    /// Returns what the link at `place` leads to. The way is worked out as text, and only directories that links may lead
    /// to are ever looked into: a link may name a filesystem that hangs, or this very mount, whose server would wait for
    /// itself.
    func target(of place: HostPlace) -> Target {
        guard let text = place.linkBytes else { return .other }
        var path = Self.join(place.directoryBytes, text)
        for _ in 0..<Self.mostHops {
            guard let root = root(of: path), let relative = Self.relative(path, to: root) else {
                return .refused(refusal(path))
            }
            let step = HostPlace(root: root, path: relative)
            let found: HostFacts
            do throws(ImageError) { found = try step.facts(following: false) } catch {
                return .refused(Refusal(reason: error.kind == .missing ? .nowhere : .closed, target: Self.text(path)))
            }
            switch found.mode & FileType.mask {
            case FileType.directory: return .directory
            case FileType.regular: return file(place, at: step, path)
            case FileType.link:
                guard let next = step.linkBytes else { return .other }
                path = Self.join(step.directoryBytes, next)
            default: return .other
            }
        }
        return .refused(Refusal(reason: .nowhere, target: Self.text(text)))
    }

    /// The regular file at `step`, to which the link at `place` leads.
    private func file(_ place: HostPlace, at step: HostPlace, _ path: [UInt8]) -> Target {
        var followed = place
        followed.target = HostPlace.Target(root: step.root, path: step.path, admitted: 0o700)
        // By the way that is used from here on; something else may be there by now.
        guard let descriptor = try? followed.open(clinux_path_only | O_NOFOLLOW) else { return .other }
        defer { close(descriptor) }
        guard let facts = try? HostPlace.facts(of: descriptor, place.text),
            facts.mode & FileType.mask == FileType.regular
        else { return .other }
        // Without /proc nobody can tell where it really is: then only its owner may have it.
        if let real = HostPlace.realPath(of: descriptor) {
            followed.target?.admitted = MountContext.admitted(to: real)
        }
        return .file(followed, facts)
    }

    /// The directory by which a path may be reached: the source, or an allowed one where links are followed. None leads to
    /// this mount.
    private func root(of path: [UInt8]) -> HostRoot? {
        let isOurs = path == mountpoint || path.starts(with: mountpoint + [UInt8(ascii: "/")])
        return isOurs ? nil : ([source] + (follows ? allowed : [])).first { Self.relative(path, to: $0) != nil }
    }

    private func refusal(_ path: [UInt8]) -> Refusal {
        let isAllowed = allowed.contains { Self.relative(path, to: $0) != nil }
        return Refusal(reason: isAllowed && !follows ? .allowed : .outside, target: Self.text(path))
    }

    private static func text(_ path: [UInt8]) -> String { String(decoding: path, as: UTF8.self) }

    /// The absolute path that `text`, of a link in `directory`, means, with `.` and `..` taken out.
    private static func join(_ directory: [UInt8], _ text: [UInt8]) -> [UInt8] {
        let slash = UInt8(ascii: "/")
        var parts: [ArraySlice<UInt8>] = []
        for part in (text.first == slash ? text : directory + [slash] + text).split(separator: slash) {
            if part == [0x2E, 0x2E] { _ = parts.popLast() } else if part != [0x2E] { parts.append(part) }
        }
        return parts.flatMap { [slash] + $0 }
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
