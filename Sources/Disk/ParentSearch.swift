internal import Bytes
internal import Formats
internal import Storage

/// Where the parent of one image could be, and what came of looking there.
///
/// A recorded path is followed as it is recorded. One of Windows leads nowhere here, so its ends are looked for below the
/// allowed directories; and where an identity will tell whether a file is the one that is meant, so are the ends of every
/// other path, and names that differ in case or Unicode normalisation.
struct ParentSearch {
    /// A place to look at.
    struct Candidate {
        /// The absolute path.
        var path: String
        /// Whether it is the recorded place itself, rather than a file of that name elsewhere.
        var isRecorded: Bool
    }

    /// Places for one parent, at most.
    private static let mostCandidates = 512

    private let reference: ParentReference
    private let child: String
    private let gate: OpenGate
    private var tried: [String] = []
    /// Those of the places that are the recorded ones.
    private var exact: [String] = []
    private var seen: Set<[UInt8]> = []
    private var worst: (rank: Int, error: ImageError)?
    /// A file that is not the parent by its identity, and why not: the first in the order of the search.
    private(set) var stranger: FileStorage?

    /// A search for what `reference`, of the image at `child`, means.
    init(_ reference: ParentReference, of child: String, _ gate: OpenGate) {
        self.reference = reference
        self.child = child
        self.gate = gate
    }

    // MARK: - Places

    /// The places that the recorded paths say.
    mutating func recorded() throws(ImageError) -> [Candidate] {
        var found: [Candidate] = []
        for path in reference.paths where path.base != .elsewhere {
            for place in try gate.candidates(path, namedBy: child) {
                found.append(Candidate(path: place, isRecorded: path.base != .windows))
            }
        }
        guard reference.tellsIdentity else { return new(found) }
        for path in reference.paths where path.base == .image || path.base == .host {
            found += gate.tails(of: path.text, namedBy: child).map { Candidate(path: $0, isRecorded: false) }
        }
        return new(found)
    }

    /// Files whose paths differ from those that were tried in case or normalisation only; none where nothing would tell
    /// whether one of them is the right one. At most `names` names are read, which is counted down.
    mutating func similar(_ names: inout Int) -> [Candidate] {
        guard reference.tellsIdentity, names > 0 else { return [] }
        var search = NameSearch(gate, for: tried, remaining: names)
        defer { names = search.rest }
        var found: [Candidate] = []
        for path in tried { found += search.paths(like: path).map { Candidate(path: $0, isRecorded: false) } }
        return new(found)
    }

    /// Those that were not there before. Paths are compared by their bytes: for Swift `é` is `é` however it is written.
    private mutating func new(_ candidates: [Candidate]) -> [Candidate] {
        let fresh = candidates.filter { seen.insert(Array($0.path.utf8)).inserted }.prefix(
            Self.mostCandidates - tried.count)
        tried += fresh.map(\.path)
        exact += fresh.filter(\.isRecorded).map(\.path)
        return Array(fresh)
    }

    // MARK: - What came of it

    /// Remembers why a place was no good.
    mutating func note(_ refusal: OpenGate.Refusal, at candidate: Candidate) {
        let rank =
            switch refusal.reason {
            case .missing: 0
            case .outside: 2
            case .unrelated, .unusable: !candidate.isRecorded ? 1 : refusal.reason == .unrelated ? 3 : 4
            }
        let isBusy = refusal.error.kind == .busy
        if rank > worst?.rank ?? 0 || isBusy && worst?.error.kind != .busy {
            worst = (isBusy ? 5 : rank, refusal.error)
        }
    }

    /// Remembers a file that is another image than the one that is meant.
    mutating func note(stranger file: FileStorage) {
        if stranger == nil { stranger = file }
    }

    /// Why there is no parent. With `names`, which is counted down, files of the parent's name are looked for in other
    /// places, to be told.
    func error(_ names: inout Int) -> ImageError {
        if let path = reference.paths.first(where: { $0.base == .elsewhere }) {
            return ImageError(
                .denied, ParentAdvice.elsewhere.usual, detail: path.text + (path.refusal.map { ": \($0)" } ?? ""),
                file: child)
        }
        if let worst {
            guard worst.rank == 2 || worst.error.isAboutDirectory else { return worst.error }
            var error = worst.error
            error.detail = (error.detail.map { $0 + "; " } ?? "") + ParentAdvice.otherFile + near(&names)
            return error
        }
        return missing(&names)
    }

    private func missing(_ names: inout Int) -> ImageError {
        guard !reference.recorded.isEmpty else {
            return ImageError(
                .missing, "the image does not say where its parent is; name it with -o parent=FILE", file: child)
        }
        var detail = "recorded as \(Self.list(reference.recorded))"
        detail += tried.isEmpty ? ", which is no file name" : "; looked for \(places)"
        if leadsToChild { detail += "; the recorded file is the image itself" }
        detail += near(&names)
        return ImageError(.missing, ParentAdvice.missing.usual, detail: detail, file: child)
    }

    /// Whether one of the recorded places is the image that records it, by whatever name.
    private var leadsToChild: Bool {
        guard let own = identity(of: HostPath.real(child) ?? child) else { return false }
        return exact.contains { identity(of: $0) == own }
    }

    private func identity(of path: String) -> FileIdentity? {
        guard let file = try? gate.open(path) else { return nil }
        defer { file.close() }
        return file.identity
    }

    /// Where was looked, without every end of every path.
    private var places: String {
        let names = reference.paths.compactMap { PathText.lastComponent($0.text) }
        guard tried.count > exact.count, !names.isEmpty else { return Self.list(exact) }
        let ends = "the ends of that, down to \(Self.list(names)), in \(Self.list(gate.directories(for: child)))"
        return exact.isEmpty ? ends : "\(Self.list(exact)), and for \(ends)"
    }

    /// Which files of the parent's name lie elsewhere, for the end of a message.
    private func near(_ names: inout Int) -> String {
        guard names > 0 else { return "" }
        var search = NameSearch(gate, for: [], remaining: names)
        let near = search.files(
            called: reference.paths.compactMap { PathText.lastComponent($0.text) }, except: tried)
        names = search.rest
        return near.isEmpty ? "" : "; there is \(Self.list(near))"
    }

    /// The first few of `texts`, each once.
    private static func list(_ texts: [String]) -> String {
        var seen: Set<[UInt8]> = []
        let texts = texts.filter { seen.insert(Array($0.utf8)).inserted }
        let shown = texts.prefix(3).joined(separator: ", ")
        return texts.count > 3 ? "\(shown) and \(texts.count - 3) more" : shown
    }
}

extension ParentReference {
    /// Whether a disk of shape `parent` is, as far as can be told, the one that this reference of `child` means: by its
    /// identity, or, where none is recorded, by its size.
    func fits(_ parent: DiskShape, of child: DiskShape) -> Bool {
        guard !identities.isEmpty else { return parent.virtualSize == child.virtualSize }
        guard tellsIdentity else { return false }
        return parent.identity.map(identities.contains) ?? false
    }

    /// Throws `.corrupt` unless a disk of shape `parent` is the one that this reference of `child` means. Both must have
    /// sectors of one size, for the child's bitmaps say sector by sector whose bytes count.
    func verify(_ parent: DiskShape, of child: DiskShape) throws(ImageError) {
        guard identities.isEmpty || tellsIdentity else {
            throw ImageError(
                .corrupt,
                """
                the image does not say by what to recognise its parent; name the right file with -o parent=FILE, and \
                read over it with -o force-parent
                """, detail: difference(from: parent))
        }
        guard fits(parent, of: child) else {
            throw ImageError(.corrupt, ParentAdvice.unrelated.usual, detail: difference(from: parent))
        }
        try verifySectors(parent, of: child)
    }

    /// Throws `.corrupt` where the sectors of the two have different sizes.
    func verifySectors(_ parent: DiskShape, of child: DiskShape) throws(ImageError) {
        guard parent.logicalSectorSize == child.logicalSectorSize else {
            throw ImageError(
                .corrupt, "the sectors of the parent have another size than those of the image above it",
                detail: "\(parent.logicalSectorSize) and \(child.logicalSectorSize.counted("byte"))")
        }
    }

    /// The identities that are recorded, and the one that there is.
    func difference(from parent: DiskShape) -> String {
        let recorded = tellsIdentity ? identityTexts.map { "{\($0)}" }.joined(separator: " or ") : "none"
        let format = Registry.format(named: parent.formatName)
        let found = parent.identity.map { "{\(format?.text(of: $0) ?? $0.plainText)}" } ?? "none"
        return "the image names \(recorded), this file has \(found)"
    }
}
