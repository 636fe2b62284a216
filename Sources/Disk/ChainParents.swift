internal import Formats
internal import Logging
internal import Storage

/// The parents of a chain: the one that an image names, or the one that the user names instead.
extension ChainOpener {
    /// How many images lie below the one that the user named, so far.
    var depth: Int { layers.count - (options.overlay == nil ? 1 : 2) }

    /// The parent that the user named for the image added last.
    var override: String? {
        options.parents.indices.contains(depth) ? options.parents[depth] : nil
    }

    /// Finds, opens and verifies the parent of `child`, and adds it. The first file that exists and is the one meant
    /// wins; otherwise the worst failure is thrown.
    mutating func addParent(_ reference: ParentReference, of child: Layer) throws(ImageError) {
        if let override {
            return try addOverride(override, reference, of: child)
        }
        var search = ParentSearch(reference, of: child.path, gate)
        if try add(firstOf: search.recorded(), &search, reference, of: child) { return }
        if try add(firstOf: search.similar(&names), &search, reference, of: child) { return }
        if options.forcesParent, let stranger = search.stranger {
            return try addStranger(stranger, reference, of: child)
        }
        var mayTell = options.tellsNames ? names : 0
        throw search.error(&mayTell)
    }

    /// Adds the first of the files that is the parent, and says whether there was one.
    private mutating func add(
        firstOf candidates: [ParentSearch.Candidate], _ search: inout ParentSearch, _ reference: ParentReference,
        of child: Layer
    ) throws(ImageError) -> Bool {
        for candidate in candidates {
            var file: FileStorage?
            do throws(OpenGate.Refusal) {
                let opened = try gate.open(candidate.path)
                file = opened
                guard try mayBeParent(opened, reference, candidate) else { continue }
                try add(opened, as: reference, of: child)
                return true
            } catch {
                if error.reason == .unrelated, let file { search.note(stranger: file) }
                search.note(error, at: candidate)
            }
        }
        return false
    }

    /// Whether a file that a search found can be a parent: no image of the chain can be one of those above it. Where
    /// that is a name's fault it is no candidate; where the image names just that file, the chain is a loop.
    private func mayBeParent(
        _ file: FileStorage, _ reference: ParentReference, _ candidate: ParentSearch.Candidate
    ) throws(OpenGate.Refusal) -> Bool {
        guard isKnown(file) else { return true }
        let layer = layers.first { $0.driver.files.first?.identity == file.identity }
        let isMeant =
            reference.identities.isEmpty
            ? candidate.isRecorded : layer?.shape.identity.map(reference.identities.contains) ?? false
        guard isMeant else { return false }
        throw OpenGate.Refusal(
            reason: .unusable,
            error: ImageError(
                .corrupt, "the image is its own parent: its chain comes back to this file", file: file.name))
    }

    /// The parent that the user named in place of the recorded one: it needs no permission, and its own directory is
    /// trusted like the image's.
    private mutating func addOverride(
        _ override: String, _ reference: ParentReference, of child: Layer
    ) throws(ImageError) {
        let file: FileStorage
        do throws(ImageError) { file = try FileStorage(path: override) } catch {
            guard error.kind == .missing else { throw error }
            throw ImageError(.missing, "the parent that is named with -o parent= does not exist", file: override)
        }
        for directory in OpenGate.directories(of: override) { try gate.admit(directory) }
        guard !isKnown(file) else {
            throw ImageError(.corrupt, "is an image of the chain already, and cannot be below itself", file: override)
        }
        do throws(OpenGate.Refusal) {
            try add(file, as: reference, of: child, isUsersWord: true)
        } catch {
            guard error.reason == .unrelated, options.forcesParent else { throw error.error }
            try addStranger(file, reference, of: child)
        }
        // What the image says about its parent's own parent is about another file.
        endsHere = false
    }

    /// Adds a file as the parent whose identity is another one, since the user insists.
    private mutating func addStranger(
        _ file: FileStorage, _ reference: ParentReference, of child: Layer
    ) throws(ImageError) {
        guard !options.writesTop else { throw ImageError.forcedForReading.named(file.name) }
        do throws(OpenGate.Refusal) {
            try add(file, as: reference, of: child, isUsersWord: true, isForced: true)
        } catch { throw error.error }
        let difference = layers.last.map { reference.difference(from: $0.shape) } ?? ""
        options.log.warning("\(file.name): read as the parent of \(child.path) by -o force-parent; \(difference)")
    }

    /// Adds `file` as the image that `reference`, of `child`, means, or says why it is not.
    private mutating func add(
        _ file: FileStorage, as reference: ParentReference, of child: Layer, isUsersWord: Bool = false,
        isForced: Bool = false
    ) throws(OpenGate.Refusal) {
        var reason = OpenGate.Refusal.Reason.unusable
        do throws(ImageError) {
            try lock(file)
            try makeDurable(file)
            let (driver, opened) = try parentDriver(of: file, recorded: reference.format, isUsersWord: isUsersWord)
            if isForced {
                try reference.verifySectors(driver.shape, of: child.shape)
            } else if !reference.identities.isEmpty {
                if !reference.fits(driver.shape, of: child.shape) { reason = .unrelated }
                try reference.verify(driver.shape, of: child.shape)
            } else if isUsersWord, !reference.fits(driver.shape, of: child.shape) {
                try noteSize(of: driver.shape, file.name, child)
            }
            try add(driver, path: file.name, opened: opened)
            endsHere = reference.endsChain
        } catch { throw OpenGate.Refusal(reason: reason, error: error.named(file.name)) }
    }

    /// Nothing but its size tells whether a parent that the user named is the one that a qcow2 image was made from.
    private func noteSize(of parent: DiskShape, _ name: String, _ child: Layer) throws(ImageError) {
        let sizes = "\(parent.virtualSize) bytes; that above it has \(child.shape.virtualSize)"
        guard !options.writesTop else {
            throw ImageError(
                .denied, "the disk of this parent has another size than the image's, so that it is only read",
                detail: sizes)
        }
        options.log.warning("\(name): the disk of this parent of \(child.path) has \(sizes)")
    }
}
