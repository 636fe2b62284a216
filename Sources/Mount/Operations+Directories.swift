internal import CFuse3
internal import CLinux
internal import Glibc
internal import Storage

func onOpenDirectory(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    Operations.answer(request, "OPENDIR", node) { (system) throws(ImageError) in
        guard let info else { throw ImageError(.io, "a request without a handle") }
        let handle = Unmanaged.passRetained(try system.openDirectory(node))
        info.pointee.fh = UInt64(UInt(bitPattern: handle.toOpaque()))
        if clinux_fuse_reply_directory(request, info) != 0 { handle.release() }
    }
}

func onReleaseDirectory(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    if let pointer = handle(info) { Unmanaged<OpenDirectory>.fromOpaque(pointer).release() }
    clinux_fuse_reply_err(request, 0)
}

func onList(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ size: Int, _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    answerListing(request, node, size, offset, info, withAttributes: false)
}

func onListPlus(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ size: Int, _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    answerListing(request, node, size, offset, info, withAttributes: true)
}

private func answerListing(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ size: Int, _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?, withAttributes: Bool
) {
    Operations.answer(request, withAttributes ? "READDIRPLUS" : "READDIR", node) { (system) throws(ImageError) in
        guard let pointer = handle(info), let space = clinux_fuse_buffer() else {
            throw ImageError(.io, "a request without a handle", errno: EBADF)
        }
        let directory = Unmanaged<OpenDirectory>.fromOpaque(pointer).takeUnretainedValue()
        let entries = try directory.entries(startingOver: offset == 0)
        let buffer = UnsafeMutableRawBufferPointer(start: space, count: min(max(0, size), Int(CLINUX_FUSE_BUFFER)))
        var listing = Listing(request: request, system: system, buffer: buffer, withAttributes: withAttributes)
        listing.fill(from: directory, entries, offset: Int(max(0, offset)))
        guard clinux_fuse_reply_buf(request, space.assumingMemoryBound(to: CChar.self), listing.used) != 0 else {
            return
        }
        // Whoever asked went away: the kernel has not seen the nodes.
        for id in listing.held { system.table.forget(id, count: 1) }
    }
}

/// The answer to one READDIR. Offsets count the entries of the listing: 1 after ".", 2 after "..", and so on.
private struct Listing {
    let request: fuse_req_t?
    let system: FileSystem
    let buffer: UnsafeMutableRawBufferPointer
    let withAttributes: Bool
    var used = 0
    /// The nodes that the kernel holds once it has the answer.
    var held: [UInt64] = []

    mutating func fill(from directory: OpenDirectory, _ entries: [Entry], offset: Int) {
        var position = offset
        while position < 2 {
            let name: Name = Name(repeating: UInt8(ascii: "."), count: position + 1)
            var parameters = fuse_entry_param()
            parameters.attr.st_ino = ino_t(directory.id)
            parameters.attr.st_mode = FileType.directory
            position += 1
            guard add(name, &parameters, next: position) else { return }
        }
        while position - 2 < entries.count {
            let entry = entries[position - 2]
            position += 1
            guard add(entry, of: directory, next: position) else { return }
        }
    }

    /// Adds one entry. With attributes the kernel holds its node from now on, except where the attributes cannot be
    /// had: then only the name is told.
    private mutating func add(_ entry: Entry, of directory: OpenDirectory, next: Int) -> Bool {
        var parameters = fuse_entry_param()
        if withAttributes {
            do throws(ImageError) { parameters = try system.hold(entry, in: directory.content) } catch {}
        }
        if parameters.ino == 0 {
            parameters.attr.st_ino = ino_t(system.table.number(of: entry.key) ?? UInt64(UInt32.max))
            parameters.attr.st_mode = FileType.bits(isDirectory: entry.isDirectory)
        }
        if add(entry.name, &parameters, next: next) {
            if parameters.ino != 0 { held.append(parameters.ino) }
            return true
        }
        if parameters.ino != 0 { system.table.forget(parameters.ino, count: 1) }
        return false
    }

    private mutating func add(_ name: Name, _ parameters: inout fuse_entry_param, next: Int) -> Bool {
        let room = buffer.count - used
        guard let place = buffer.baseAddress?.advanced(by: used).assumingMemoryBound(to: CChar.self) else {
            return false
        }
        let needed = (name + [0]).withUnsafeBytes { bytes in
            let text = bytes.baseAddress?.assumingMemoryBound(to: CChar.self)
            return withAttributes
                ? clinux_fuse_add_direntry_plus(request, place, room, text, &parameters, off_t(next))
                : clinux_fuse_add_direntry(request, place, room, text, &parameters.attr, off_t(next))
        }
        guard needed <= room else { return false }
        used += needed
        return true
    }
}
