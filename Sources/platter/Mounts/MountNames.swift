internal import Glibc

/// The names under which a mount may be meant that the user named by its mountpoint or its image.
struct MountNames {
    private let typed: String
    private let names: [[UInt8]]
    private let source: [UInt8]?

    /// What `target`, as it was typed, can mean.
    init(_ target: String) {
        typed = target
        // A dead mount answers no call on its own path; the path above it does.
        names = [target, HostPath.absolute(target), Self.resolved(target)].map { Array($0.utf8) }
        source = (try? HostPath.existing(target)).map { Array($0.utf8) }
    }

    /// Returns whether a mount on `mountpoint` is meant.
    func match(mountpoint: [UInt8]) -> Bool { names.contains(trimmed(mountpoint)) || names.contains(mountpoint) }

    /// Returns whether a mount of `source` is meant: an image, or a directory of images.
    func match(source: [UInt8]) -> Bool { names.contains(source) || source == self.source }

    private func trimmed(_ path: [UInt8]) -> [UInt8] {
        path.count > 1 && path.last == UInt8(ascii: "/") ? Array(path.dropLast()) : path
    }

    /// The failure where no mount is meant.
    func unknown(_ status: ExitStatus) -> Failure {
        Failure(status, "\(typed): not a mount of platter; 'platter list' shows what there is")
    }

    /// More links than these in a row are a loop, as for the kernel.
    private static let mostLinks = 40

    /// The absolute path of `path` without symbolic links, without asking what is mounted there.
    static func resolved(_ path: String) -> String {
        var path = resolvingParent(of: path)
        for _ in 0..<mostLinks {
            guard let target = HostPath.linkTarget(path), let text = String(validating: target, as: UTF8.self),
                let slash = path.lastIndex(of: "/")
            else { break }
            path = resolvingParent(of: text.hasPrefix("/") ? text : String(path[...slash]) + text)
        }
        return path
    }

    /// The absolute path of `path`, symbolic links resolved in all but its last part.
    private static func resolvingParent(of path: String) -> String {
        var absolute = HostPath.absolute(path)
        while absolute.count > 1, absolute.hasSuffix("/") { absolute.removeLast() }
        guard let slash = absolute.lastIndex(of: "/") else { return absolute }
        let parent = slash == absolute.startIndex ? "/" : String(absolute[..<slash])
        let name = absolute[absolute.index(after: slash)...]
        guard name != ".", name != "..", let resolved = try? HostPath.existing(parent) else {
            return (try? HostPath.existing(absolute)) ?? absolute
        }
        return resolved == "/" ? "/\(name)" : "\(resolved)/\(name)"
    }
}
