internal import Bytes
internal import Storage

/// The GUID partition table of a disk (UEFI specification, 5.3): a header in sector 1 and a copy in the last sector, each
/// with an array of entries of its own.
struct GPT {
    /// No array is larger: Linux has the same limit.
    private static let mostArrayBytes: UInt64 = 4 << 20
    private static let mostEntryBytes: UInt64 = 4096

    let disk: Disk
    /// The size of a sector in bytes: 512 or 4096.
    let sector: UInt64

    /// A copy whose checksums are right.
    struct Copy {
        /// The sector of its header.
        var place: UInt64
        var header: GPTHeader
        /// The array of entries.
        var array: [UInt8]
    }

    /// Why a copy cannot be used.
    private struct Damage: Error {
        /// What is wrong ("the checksum of its header is wrong").
        var text: String
        /// Whether there is a header at all.
        var isThere = true
        /// Where the header says that the other copy is.
        var alternate: UInt64?
        /// What reading threw.
        var failure: ImageError?
    }

    /// What a search for a usable copy found.
    struct Search {
        /// The copy to use, if there is one.
        var copy: Copy?
        /// What a user of `copy` should know.
        var remarks: [String] = []
        /// Why there is no copy.
        var problem = ""
        /// Whether there was at least the header of one.
        var isThere = false
        /// What reading threw where no copy could be read.
        var failure: ImageError?
    }

    private var sectors: UInt64 { disk.size / sector }

    /// Whether sector 1 holds the signature of a header.
    var isThere: Bool {
        guard sectors >= 3, let bytes = try? disk.bytes(at: sector, count: 8) else { return false }
        return bytes.span.bytes.hasASCII("EFI PART")
    }

    /// Looks for a whole copy: in sector 1, then where that names its backup, in the last sector, and in `backupHints`,
    /// the sectors that were the last when the disk was smaller.
    func find(backupHints: [UInt64]) -> Search {
        guard sectors >= 3 else { return Search(problem: "the disk is too small for a GPT") }
        let primary: Damage
        do throws(Damage) { return Search(copy: try copy(at: 1)) } catch { primary = error }
        var places: [UInt64] = []
        for place in [primary.alternate ?? 0, sectors - 1] + backupHints
        where place >= 2 && place < sectors && !places.contains(place) {
            places.append(place)
        }
        var search = Search(isThere: primary.isThere, failure: primary.failure)
        var reasons: [String] = []
        for place in places {
            do throws(Damage) {
                search.copy = try copy(at: place)
                search.remarks = [
                    "its primary copy is damaged (\(primary.text)); the backup in sector \(place) is used"
                ]
                return search
            } catch {
                search.isThere = search.isThere || error.isThere
                search.failure = search.failure ?? error.failure
                if error.isThere || place == sectors - 1 { reasons.append("backup in sector \(place): \(error.text)") }
            }
        }
        search.problem =
            "no copy of the GPT is whole (primary: \(primary.text); \(reasons.joined(separator: "; ")))"
        return search
    }

    /// Returns what is wrong with the backup of a primary copy that is whole; nil where nothing is.
    func remarkOnBackup(of primary: Copy) -> String? {
        let place = primary.header.alternate
        guard place < sectors else { return nil }
        do throws(Damage) {
            _ = try copy(at: place)
            guard place != sectors - 1 else { return nil }
            return "its backup is in sector \(place) and not at the end of the disk, which has grown since"
        } catch { return "its backup in sector \(place) is damaged (\(error.text)); Linux needs the primary copy only" }
    }

    /// Reads and checks the copy whose header is in sector `place`.
    private func copy(at place: UInt64) throws(Damage) -> Copy {
        let bytes = try bytes(at: place * sector, count: sector)
        guard bytes.span.bytes.hasASCII("EFI PART") else { throw Damage(text: "there is no header", isThere: false) }
        let header = GPTHeader(bytes.span.bytes)
        if let problem = header.problem(bytes.span.bytes, in: place) {
            throw Damage(text: problem, alternate: header.alternate)
        }
        do throws(Damage) { return Copy(place: place, header: header, array: try array(of: header)) } catch {
            throw Damage(text: error.text, alternate: header.alternate, failure: error.failure)
        }
    }

    private func array(of header: GPTHeader) throws(Damage) -> [UInt8] {
        let (count, entryBytes) = (UInt64(header.count), UInt64(header.entryBytes))
        guard entryBytes >= 128, entryBytes.isPowerOfTwo, entryBytes <= Self.mostEntryBytes else {
            throw Damage(text: "its entries have the impossible size of \(entryBytes.counted("byte"))")
        }
        guard count > 0, count * entryBytes <= Self.mostArrayBytes else {
            throw Damage(text: "it has the impossible number of \(count.counted("entry", "entries"))")
        }
        guard let start = header.array.checkedMultiplying(by: sector),
            let end = start.checkedAdding(count * entryBytes), end <= disk.size
        else { throw Damage(text: "its entries do not lie on the disk") }
        let bytes = try bytes(at: start, count: count * entryBytes)
        guard CRC32.of(bytes.span.bytes) == header.arraySum else {
            throw Damage(text: "the checksum of its entries is wrong")
        }
        return bytes
    }

    private func bytes(at offset: UInt64, count: UInt64) throws(Damage) -> [UInt8] {
        do throws(ImageError) { return try disk.bytes(at: offset, count: Int(count)) } catch {
            throw Damage(text: "it cannot be read", failure: error)
        }
    }

    // MARK: - Entries

    /// The table that a whole copy describes. Entries that do not lie on the disk are left out, as Linux does.
    func table(_ copy: Copy) -> PartitionTable {
        var table = PartitionTable(kind: .gpt, sectorSize: sector, diskID: copy.header.diskID.microsoftText)
        var outside: [Int] = []
        var backward: [Int] = []
        let array = copy.array.span.bytes
        for index in 0..<Int(copy.header.count) {
            let offset = index * Int(copy.header.entryBytes)
            guard GUID(array, at: offset) != .zero else { continue }
            let first: UInt64 = array.little(at: offset + 32)
            let last: UInt64 = array.little(at: offset + 40)
            if first >= sectors || last >= sectors {
                outside.append(index + 1)
            } else if first > last {
                backward.append(index + 1)
            } else {
                let range = ByteRange(first * sector, to: (last + 1) * sector)
                table.entries.append(entry(array, at: offset, number: index + 1, range))
                if table.entries.count == PartitionTable.mostShown { break }
            }
        }
        if table.entries.count == PartitionTable.mostShown {
            table.remarks.append("only the first \(PartitionTable.mostShown) partitions are shown")
        }
        if !outside.isEmpty {
            table.remarks.append("left out, since past the end of the disk: \(PartitionTable.words(outside))")
        }
        if !backward.isEmpty {
            table.remarks.append("left out, since ending before the beginning: \(PartitionTable.words(backward))")
        }
        if copy.header.lastUsable >= sectors {
            table.remarks.append("the disk is shorter than the table says, and Linux would show nothing of it")
        }
        return table
    }

    private func entry(_ array: RawSpan, at offset: Int, number: Int, _ range: ByteRange) -> PartitionEntry {
        let attributes: UInt64 = array.little(at: offset + 48)
        return PartitionEntry(
            number: number, type: GUID(array, at: offset).microsoftText, label: label(array, at: offset + 56),
            id: GUID(array, at: offset + 16).microsoftText, isBootable: attributes & 4 != 0, range: range)
    }

    /// The name of an entry: 36 units of UTF-16, ended by a zero.
    private func label(_ array: RawSpan, at offset: Int) -> String {
        var units: [UInt16] = []
        for index in 0..<36 {
            let unit: UInt16 = array.little(at: offset + index * 2)
            if unit == 0 { break }
            units.append(unit)
        }
        return String(decoding: units, as: UTF16.self)
    }
}

/// The header of one copy of a GPT (UEFI specification, table 5-5). Sectors are counted from the disk's beginning.
struct GPTHeader {
    /// The length that the header's checksum covers, in bytes.
    let headerBytes: UInt32
    let headerSum: UInt32
    /// The sector of this header.
    let place: UInt64
    /// The sector of the other copy's header.
    let alternate: UInt64
    /// The last sector that a partition may use.
    let lastUsable: UInt64
    let diskID: GUID
    /// The first sector of the array of entries.
    let array: UInt64
    /// How many entries there are.
    let count: UInt32
    /// The size of one entry in bytes.
    let entryBytes: UInt32
    let arraySum: UInt32

    /// Reads the fields from the first 92 bytes of `sector`, which is a sector long.
    init(_ sector: RawSpan) {
        headerBytes = sector.little(at: 12)
        headerSum = sector.little(at: 16)
        place = sector.little(at: 24)
        alternate = sector.little(at: 32)
        lastUsable = sector.little(at: 48)
        diskID = GUID(sector, at: 56)
        array = sector.little(at: 72)
        count = sector.little(at: 80)
        entryBytes = sector.little(at: 84)
        arraySum = sector.little(at: 88)
    }

    /// What is wrong with the header, whose bytes are `sector` and which was found in sector number `found`; nil where
    /// where nothing is.
    func problem(_ sector: RawSpan, in found: UInt64) -> String? {
        guard headerBytes >= 92, Int(headerBytes) <= sector.byteCount else {
            return "its header has the impossible size of \(headerBytes.counted("byte"))"
        }
        var sum = CRC32()
        sum.add(sector, at: 0, count: 16)
        sum.addZeros(4)
        sum.add(sector, at: 20, count: Int(headerBytes) - 20)
        guard sum.value == headerSum else { return "the checksum of its header is wrong" }
        return place == found ? nil : "its header belongs into sector \(place)"
    }
}
