internal import Storage
internal import Synchronization

/// The images of a mount that cannot be opened, as far as somebody has looked at them: for the status file.
final class BrokenImages: Sendable {
    /// One of them.
    struct Entry: Sendable {
        /// Its path on the host.
        var path: String
        /// What is wrong with it.
        var error: String
        /// Where it is in a directory; nil for the one image of a mount.
        var place: HostPlace?
    }

    private struct State {
        var entries: [FileIdentity: Entry] = [:]
        var isCut = false
    }

    /// No more than these are kept.
    private static let limit = 256
    private let state = Mutex(State())

    /// Notes what is wrong with the image at `path`; `error` is said without the path.
    func add(_ identity: FileIdentity, _ path: String, _ error: ImageError, at place: HostPlace?) {
        var error = error
        if error.file == path { error.file = nil }
        let entry = Entry(path: path, error: "\(error)", place: place)
        state.withLock { state in
            guard state.entries.count < Self.limit || state.entries[identity] != nil else {
                state.isCut = true
                return
            }
            state.entries[identity] = entry
        }
    }

    /// The image can be opened, or is none any more.
    func remove(_ identity: FileIdentity) { state.withLock { _ = $0.entries.removeValue(forKey: identity) } }

    /// Those that are still there, by path, and whether there may be more.
    func all() -> (entries: [Entry], isCut: Bool) {
        let known = state.withLock { $0 }
        var result: [Entry] = []
        for (identity, entry) in known.entries {
            if let place = entry.place, (try? place.facts())?.identity != identity {
                remove(identity)
            } else {
                result.append(entry)
            }
        }
        return (result.sorted { $0.path < $1.path }, known.isCut)
    }
}
