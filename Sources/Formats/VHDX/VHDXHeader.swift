internal import Bytes
internal import Storage

/// The header in force: one of the two copies at 64 and 128 KiB ([MS-VHDX] 2.2.2).
struct VHDXHeader {
    /// Counts the updates of the header; the larger one is the newer.
    let sequence: UInt64
    /// Changes whenever somebody opens the file for writing.
    let fileWriteGUID: GUID
    /// Changes before the first change that a guest could see: what children record about their parent.
    let dataWriteGUID: GUID
    /// The log entries with this identifier are in force; zero when the log is empty.
    let logGUID: GUID
    /// Where the log is, in bytes.
    let logOffset: UInt64
    /// The length of the log in bytes; 0 where there is none.
    let logLength: UInt64
    /// Which copy it is, 1 or 2.
    let slot: Int
    /// Whether the other copy is damaged.
    private(set) var isAlone = false

    /// The size of a copy in bytes.
    static let byteCount = 4096
    /// Longer logs are refused, in bytes.
    static let maximumLogBytes: UInt64 = 1 << 30

    /// Whether the log may hold changes that are not applied yet.
    var hasLog: Bool { logGUID != .zero }

    /// Where the copy in slot 1 or 2 lies, in bytes.
    static func place(_ slot: Int) -> UInt64 { UInt64(slot) * 64 << 10 }

    /// Chooses between the two copies: the only valid one, or the one with the larger sequence number. Two valid copies
    /// with one number are accepted when they are the same bytes, as Disk2vhd writes them.
    ///
    /// Throws `.malformed` when neither is valid or the choice is impossible, `.unsupported` for another version.
    static func current(of storage: any Storage) throws(ImageError) -> VHDXHeader {
        guard storage.size >= 320 << 10 else {
            throw ImageError(
                .malformed, "the file ends within its header section; it is truncated",
                detail: "cut off after \(storage.size) bytes")
        }
        let first = try storage.bytes(at: HostOffset(place(1)), count: byteCount)
        let second = try storage.bytes(at: HostOffset(place(2)), count: byteCount)
        switch (isValid(first), isValid(second)) {
        case (false, false) where first.allSatisfy { $0 == 0 } && second.allSatisfy { $0 == 0 }:
            throw ImageError(.malformed, "both headers are zeros: the beginning of the file is lost")
        case (false, false):
            throw ImageError(.malformed, "both headers are damaged (signature or checksum)")
        case (true, false):
            return try VHDXHeader(first, slot: 1).alone()
        case (false, true):
            return try VHDXHeader(second, slot: 2).alone()
        case (true, true):
            let numbers: (UInt64, UInt64) = (first.span.bytes.little(at: 8), second.span.bytes.little(at: 8))
            guard numbers.0 != numbers.1 || first == second else {
                throw ImageError(.malformed, "both headers claim to be current: one sequence number, unequal content")
            }
            return numbers.0 > numbers.1 ? try VHDXHeader(first, slot: 1) : try VHDXHeader(second, slot: 2)
        }
    }

    /// The program that made the file, as it says itself; nil where it says nothing. For people only. Throws `.io`.
    static func creator(of storage: any Storage) throws(ImageError) -> String? {
        let text = try storage.bytes(at: HostOffset(8), count: 512)
        var units: [UInt16] = []
        for index in 0..<256 {
            let unit: UInt16 = text.span.bytes.little(at: index * 2)
            if unit == 0 { break }
            units.append(unit < 0x20 || (0x7F..<0xA0).contains(unit) ? 0xFFFD : unit)
        }
        return units.isEmpty ? nil : String(decoding: units, as: UTF16.self)
    }

    /// Whether a copy's signature and checksum are right.
    static func isValid(_ copy: [UInt8]) -> Bool {
        let span = copy.span.bytes
        return span.hasASCII("head") && span.little(UInt32.self, at: 4) == CRC32C.of(span, zeroing: 4)
    }

    private init(_ copy: [UInt8], slot: Int) throws(ImageError) {
        let span = copy.span.bytes
        self.slot = slot
        sequence = span.little(at: 8)
        fileWriteGUID = GUID(span, at: 16)
        dataWriteGUID = GUID(span, at: 32)
        logGUID = GUID(span, at: 48)
        logLength = UInt64(span.little(UInt32.self, at: 68))
        logOffset = span.little(at: 72)
        let version = span.little(UInt16.self, at: 66)
        guard version == 1 else {
            throw ImageError(.unsupported, "the VHDX version is unknown", detail: "version \(version)")
        }
        let logVersion = span.little(UInt16.self, at: 64)
        guard logVersion == 0 || logGUID == .zero else {
            throw ImageError(.unsupported, "the log's version is unknown", detail: "version \(logVersion)")
        }
        try checkLog()
    }

    private func checkLog() throws(ImageError) {
        guard logLength % VHDX.unit == 0, logOffset % VHDX.unit == 0 else {
            throw ImageError(.malformed, "the log does not lie on MiB boundaries", at: logOffset)
        }
        if logLength == 0 {
            guard logGUID == .zero else { throw ImageError(.corrupt, "the log is in use but has no length") }
            return
        }
        guard logOffset >= VHDX.unit, logOffset.checkedAdding(logLength) != nil else {
            throw ImageError(.malformed, "the log lies within the header section or past every file", at: logOffset)
        }
        guard logLength <= Self.maximumLogBytes else {
            throw ImageError(.unsupported, "the log is longer than 1 GiB", detail: logLength.counted("byte"))
        }
    }

    private func alone() -> VHDXHeader {
        var copy = self
        copy.isAlone = true
        return copy
    }
}
