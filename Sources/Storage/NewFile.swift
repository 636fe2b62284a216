internal import CLinux
internal import Glibc
internal import Synchronization

/// What becomes an image when it is whole: a file without a name, or a block device.
package protocol NewTarget: AnyObject, Sendable {
    /// Where the image's bytes go.
    var bytes: any Storage { get }

    /// Makes an image of it, once its bytes are on the medium, and returns when that is durable. Throws `ImageError`.
    func keep() throws(ImageError)

    /// Takes back what `keep` did: it is of no use without another one that failed.
    func remove()
}

/// A file that gets its name only when it is whole: until then nobody sees it, and a crash leaves nothing of that name.
///
/// It begins without any name (O_TMPFILE), or, on filesystems that cannot do that, under a hidden one of its own. What
/// is not kept goes away with the last reference.
package final class NewFile: NewTarget {
    /// The path that it will have, as it was given.
    package let path: String
    /// The file, empty, open for writing. Closed with the last reference to this object.
    package let storage: FileStorage

    package var bytes: any Storage { storage }

    private let directory: Int32
    private let name: String
    private let replaces: Bool
    /// The name that it has now: a hidden one, the real one, or none.
    private let present: Mutex<String?>

    /// Begins a file that will be at `path`; one that is there already is replaced only where `replaces` says so, and
    /// never one that another program has locked or that is no regular file. Throws `.denied` for a name that is taken,
    /// `.busy`, `.missing` for a directory that does not exist, `.readOnly`, `.noSpace` and `.io`.
    package init(path: String, replaces: Bool = false) throws(ImageError) {
        let slash = path.lastIndex(of: "/")
        let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
        guard !name.isEmpty, name != ".", name != "..", !name.utf8.contains(0) else {
            throw ImageError(.denied, "is not the name of a file", errno: EISDIR, file: path)
        }
        try Self.checkTarget(path, replaces)
        let parent = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let directory = clinux_open_at(AT_FDCWD, parent, O_RDONLY | O_DIRECTORY)
        guard directory >= 0 else {
            let code = errno
            throw ImageError(
                kind(of: code), "cannot create the file: its directory cannot be opened", errno: code,
                detail: Self.reason(code), file: path)
        }
        do throws(ImageError) {
            let (descriptor, hidden) = try Self.begin(in: directory)
            present = Mutex(hidden)
            storage = try FileStorage(owning: descriptor, name: path, regularOnly: true, isWritable: true)
        } catch {
            Glibc.close(directory)
            throw error.named(path)
        }
        (self.path, self.name, self.directory, self.replaces) = (path, name, directory, replaces)
    }

    deinit {
        if let hidden = present.withLock({ $0 }) { unlinkat(directory, hidden, 0) }
        storage.close()
        Glibc.close(directory)
    }

    /// A path by which the file can be opened again while it has no name: that of its descriptor, or without /proc, where
    /// it begins under a hidden name, that one.
    package var presentPath: String {
        guard !Self.hasDescriptorPaths, let hidden = present.withLock({ $0 }) else {
            return "/proc/self/fd/\(storage.descriptor)"
        }
        return path.dropLast(name.count) + hidden
    }

    private static var hasDescriptorPaths: Bool { access("/proc/self/fd", X_OK) == 0 }

    /// Gives the file its name, once its bytes are on the medium, and returns when the name is there too. Throws like
    /// `init`; the file has no name then.
    package func keep() throws(ImageError) {
        do throws(ImageError) {
            try storage.flush()
            let hidden = try hide()
            // Filling the file may have taken long, and what it replaces may be in use by now.
            if replaces { try Self.checkTarget(path, replaces) }
            if let hidden {
                let code =
                    replaces ? renameat(directory, hidden, directory, name) : clinux_rename_new(directory, hidden, name)
                guard code == 0 else { throw Self.nameFailure(errno) }
            } else if clinux_give_name(storage.descriptor, directory, name) != 0 {
                throw Self.nameFailure(errno)
            }
            present.withLock { $0 = nil }
            do throws(ImageError) {
                // The file knows its new link, and the directory its new entry.
                _ = try syscall("cannot flush the file") { fsync(storage.descriptor) }
                _ = try syscall("cannot flush the directory") { fsync(directory) }
            } catch {
                if !replaces { unlinkat(directory, name, 0) }
                throw error
            }
        } catch { throw error.named(path) }
    }

    /// Takes back a name that `keep` gave: for a file that is of no use without another one that failed.
    package func remove() {
        unlinkat(directory, name, 0)
    }

    /// The hidden name that the file has, or gets because a file is to be replaced: only a rename does that in one step.
    private func hide() throws(ImageError) -> String? {
        if let hidden = present.withLock({ $0 }) { return hidden }
        guard replaces else { return nil }
        for _ in 0..<100 {
            let hidden = Self.hiddenName()
            if clinux_give_name(storage.descriptor, directory, hidden) == 0 {
                present.withLock { $0 = hidden }
                return hidden
            }
            guard errno == EEXIST else { break }
        }
        throw Self.nameFailure(errno)
    }

    /// Makes the file; the name is the hidden one, or nil where it has none.
    private static func begin(in directory: Int32) throws(ImageError) -> (Int32, String?) {
        if hasDescriptorPaths {
            let descriptor = clinux_make_unnamed(directory, 0o644)
            if descriptor >= 0 { return (descriptor, nil) }
            guard [EOPNOTSUPP, EISDIR, EINVAL, ENOENT].contains(errno) else { throw failure(errno) }
        }
        for _ in 0..<100 {
            let hidden = hiddenName()
            let descriptor = clinux_make_file(directory, hidden, 0o644)
            if descriptor >= 0 { return (descriptor, hidden) }
            guard errno == EEXIST else { break }
        }
        throw failure(errno)
    }

    private static func hiddenName() -> String {
        ".platter-new-" + String(UInt64.random(in: 0...UInt64.max), radix: 36)
    }

    /// Throws where something is at `path` that may not be replaced.
    private static func checkTarget(_ path: String, _ replaces: Bool) throws(ImageError) {
        var facts = clinux_file_facts()
        guard clinux_facts_at(AT_FDCWD, path, 1, &facts) == 0 else { return }
        guard replaces else { throw nameFailure(EEXIST).named(path) }
        guard facts.mode & UInt32(S_IFMT) == UInt32(S_IFREG) else {
            throw ImageError(.denied, "is not a regular file, and is not replaced", errno: EEXIST, file: path)
        }
        // A running machine's image would go on living without a name. What cannot be read is not asked.
        guard let present = try? FileStorage(path: path) else { return }
        defer { present.close() }
        _ = try FileLock.lockForWriting(present)
    }

    private static func nameFailure(_ code: Int32) -> ImageError {
        guard code == EEXIST else { return failure(code) }
        return ImageError(
            .denied, "the file exists already; choose another name, or replace it with --force", errno: code)
    }

    private static func failure(_ code: Int32) -> ImageError {
        let sort = kind(of: code)
        // For these two the error's own text ends with the host's words.
        let detail = sort == .io || sort == .noSpace ? nil : reason(code)
        return ImageError(sort, "cannot create the file", errno: code, detail: detail)
    }

    private static func reason(_ code: Int32) -> String { String(cString: strerror(code)).lowercased() }
}
