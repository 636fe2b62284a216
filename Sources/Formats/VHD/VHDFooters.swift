internal import Bytes
internal import Storage

/// Which of an image's footers counts: the one at the end, or, for recovery only, its copy at byte 0.
///
/// The copy is looked at only when the end has no good footer. In a fixed image byte 0 belongs to the guest, so a footer
/// whose sum is wrong but which says "fixed" is never replaced by what stands there.
struct VHDFooters {
    /// Where the footer that counts was found.
    enum Place {
        /// The last 512 bytes.
        case end
        /// The last 511 bytes, as Virtual PC wrote it before 2004.
        case shortEnd
        /// The first 512 bytes.
        case copy
    }

    /// The footer that counts.
    var footer: VHDFooter
    /// Where it was found.
    var place: Place
    /// Where the image's other parts must end, in bytes: at the footer at the end, or with the file.
    var dataEnd: UInt64
    /// Whether a damaged footer stands at the end, rather than none.
    var isEndDamaged = false

    /// Finds the footer that counts. Throws `.malformed` when there is none or it is damaged beyond recovery,
    /// `.unsupported` for an image that vhd-util has marked, and `.io`.
    static func find(_ storage: any Storage) throws(ImageError) -> VHDFooters {
        let tail = try VHDTail(storage)
        var reason = ImageError(.malformed, "there is no VHD footer at the end of the file")
        if let offset = tail.offset {
            if tail.isPoisoned {
                throw ImageError(
                    .unsupported,
                    "a program changing the VHD was interrupted and has marked it; finish that first (vhd-util revert)",
                    at: offset)
            }
            do throws(ImageError) {
                let footer = try VHDFooter(tail.bytes.span.bytes, at: offset)
                return VHDFooters(footer: footer, place: tail.isShort ? .shortEnd : .end, dataEnd: offset)
            } catch { reason = error }
            guard reason.kind == .malformed, !tail.saysFixed else { throw reason }
        }
        guard let copy = try copyForRecovery(storage) else { throw reason }
        return VHDFooters(footer: copy, place: .copy, dataEnd: storage.size, isEndDamaged: tail.offset != nil)
    }

    /// Whether the end of the file says VHD, or a copy at byte 0 that may be used for recovery does. Throws `.io`.
    static func arePresent(_ storage: any Storage) throws(ImageError) -> Bool {
        if try VHDTail(storage).offset != nil { return true }
        return try copyForRecovery(storage) != nil
    }

    /// The copy at byte 0 where it may stand in for the footer: both checksums hold, the type has such a copy, and the
    /// dynamic header is where it says. Throws `.io`.
    private static func copyForRecovery(_ storage: any Storage) throws(ImageError) -> VHDFooter? {
        guard storage.holds(HostOffset(0), count: UInt64(VHDFooter.byteCount)) else { return nil }
        let bytes = try storage.bytes(at: HostOffset(0), count: VHDFooter.byteCount)
        do throws(ImageError) {
            let copy = try VHDFooter(bytes.span.bytes, at: 0)
            guard copy.type.isSparse else { return nil }
            _ = try VHDDynamicHeader(storage, at: copy.dataOffset)
            return copy
        } catch {
            guard error.kind != .io else { throw error }
            return nil
        }
    }

    /// What the copy at byte 0 of a sparse image is like.
    enum Copy {
        /// It says what the footer says.
        case good
        /// It is about the same image, of another size.
        case otherSize
        /// It is no footer.
        case damaged
        /// It belongs to another image.
        case foreign
    }

    /// Looks at the copy at byte 0 of a sparse image whose footer at the end is good. Throws `.io`.
    func copy(_ storage: any Storage) throws(ImageError) -> Copy {
        let copy: VHDFooter
        do throws(ImageError) {
            let bytes = try storage.bytes(at: HostOffset(0), count: VHDFooter.byteCount)
            copy = try VHDFooter(bytes.span.bytes, at: 0)
        } catch {
            guard error.kind != .io else { throw error }
            return .damaged
        }
        guard copy.agrees(with: footer) else { return .foreign }
        return copy.currentSize == footer.currentSize ? .good : .otherSize
    }

    /// What to say about the copy at byte 0. Throws `.malformed` when footer and copy are about different images, and
    /// `.io`.
    func remarkOnCopy(_ storage: any Storage) throws(ImageError) -> String? {
        guard footer.type.isSparse else { return nil }
        guard place != .copy else {
            return "the footer at the end is missing or damaged; its copy at the start of the file is used"
        }
        switch try copy(storage) {
        case .good: return nil
        case .otherSize:
            return "the copy of the footer at the start of the file has another size; the one at the end is used"
        case .damaged: return "the copy of the footer at the start of the file is damaged"
        case .foreign:
            throw ImageError(
                .malformed, "the VHD footer and its copy at the start of the file are about different images")
        }
    }
}

/// The last bytes of a file, as far as they say that it is a VHD.
private struct VHDTail {
    /// Where the footer begins; nil when the end of the file does not say VHD.
    var offset: UInt64?
    /// The footer's 512 bytes; the last one is a zero that the file lacks where the footer is short.
    var bytes: [UInt8] = []
    /// Whether the footer has 511 bytes.
    var isShort = false

    /// Whether vhd-util has marked the image as being in the middle of a change.
    var isPoisoned: Bool { bytes.span.bytes.hasASCII("v_poison") }

    /// Whether the footer, damaged or not, claims to be that of a fixed image.
    var saysFixed: Bool { bytes.span.bytes.big(UInt32.self, at: 60) == VHDDiskType.fixed.rawValue }

    /// Looks at the last 512 bytes, then at the last 511. Throws `.io`.
    init(_ storage: any Storage) throws(ImageError) {
        let size = storage.size
        guard size >= UInt64(VHDFooter.byteCount) else { return }
        let last = try storage.bytes(at: HostOffset(size - UInt64(VHDFooter.byteCount)), count: VHDFooter.byteCount)
        let span = last.span.bytes
        if span.hasASCII("conectix") || span.hasASCII("v_poison") {
            offset = size - UInt64(VHDFooter.byteCount)
            bytes = last
        } else if span.hasASCII("conectix", at: 1) {
            offset = size - UInt64(VHDFooter.byteCount) + 1
            isShort = true
            bytes = last.dropFirst() + [0]
        }
    }
}
