import Bytes
import Formats
import Storage
import TestSupport

/// Writes VHDs byte by byte, right by default and wrong where a test says so.
struct VHDBuilder {
    /// A parent locator and where its text goes.
    struct Locator {
        var code: String
        var text: [UInt8]
        var space: UInt32 = 512
        var length: UInt32?
        var offset: UInt64?
    }

    var type: UInt32 = 3
    var size: UInt64
    var geometry: (cylinders: UInt16, heads: UInt8, sectors: UInt8) = (65535, 16, 255)
    var creator = "tst "
    var creatorVersion: UInt32 = 0x0001_0000
    var uniqueID = [UInt8](repeating: 0xA5, count: 16)
    var blockSize: UInt32 = 4096
    var maxTableEntries: UInt32?
    var parentID = [UInt8](repeating: 0, count: 16)
    var parentName: [UInt8] = []
    var locators: [Locator] = []
    /// What lies between the table and the first block.
    var afterTable: [UInt8] = []
    /// The blocks in the order in which they lie in the file.
    var blocks: [(index: Int, bitmap: [UInt8], data: [UInt8])] = []
    /// The bytes of the footer at the end: 512, 511, or 0 for none.
    var tailBytes = 512

    init(size: UInt64) { self.size = size }

    var entries: UInt32 { maxTableEntries ?? UInt32(size.dividedRoundingUp(by: UInt64(blockSize))) }
    var bitmapBytes: Int { (Int(blockSize) / 512 + 4095) / 4096 * 512 }
    static let tableOffset = 1536

    /// Adds a block of `data`; the bits of `written` are set, all of them where it is nil.
    mutating func addBlock(_ index: Int, _ data: [UInt8], written: Set<Int>? = nil) {
        let sectors = Int(blockSize) / 512
        var bitmap = [UInt8](repeating: 0, count: bitmapBytes)
        for sector in 0..<sectors where written?.contains(sector) ?? true {
            bitmap[sector / 8] |= 0x80 >> UInt8(sector % 8)
        }
        blocks.append((index, bitmap, data))
    }

    /// The footer, its checksum in place.
    func footer() -> [UInt8] {
        var bytes = Array("conectix".utf8) + Self.big(UInt32(2)) + Self.big(UInt32(0x0001_0000))
        bytes += Self.big(type == 2 ? UInt64.max : 512)
        bytes += Self.big(UInt32(86400 * 366)) + Self.ascii(creator) + Self.big(creatorVersion) + Array("Wi2k".utf8)
        bytes += Self.big(size) + Self.big(size)
        bytes += Self.big(geometry.cylinders) + [geometry.heads, geometry.sectors]
        bytes += Self.big(type) + [0, 0, 0, 0] + uniqueID
        bytes += [UInt8](repeating: 0, count: 512 - bytes.count)
        return Self.summed(bytes, at: 64)
    }

    /// The dynamic header, its checksum in place; locator texts begin at `textOffset`.
    func header(textOffset: UInt64) -> [UInt8] {
        var bytes = Array("cxsparse".utf8) + Self.big(UInt64.max) + Self.big(UInt64(Self.tableOffset))
        bytes += Self.big(UInt32(0x0001_0000)) + Self.big(entries) + Self.big(blockSize) + [0, 0, 0, 0]
        bytes += parentID + [UInt8](repeating: 0, count: 8)
        bytes += parentName + [UInt8](repeating: 0, count: 512 - parentName.count)
        var position = textOffset
        for locator in locators {
            bytes += Self.ascii(locator.code) + Self.big(locator.space)
            bytes += Self.big(locator.length ?? UInt32(locator.text.count)) + [0, 0, 0, 0]
            bytes += Self.big(locator.offset ?? position)
            position += 512
        }
        bytes += [UInt8](repeating: 0, count: 1024 - bytes.count)
        return Self.summed(bytes, at: 36)
    }

    /// The whole file.
    func bytes() -> [UInt8] {
        guard type != 2 else { return (blocks.first?.data ?? []) + footer().prefix(tailBytes) }
        var table = [UInt8](repeating: 0xFF, count: Int(entries) * 4)
        table += [UInt8](repeating: 0xFF, count: (512 - table.count % 512) % 512)
        let textOffset = Self.tableOffset + table.count + afterTable.count
        var sector = (textOffset + locators.count * 512) / 512
        var content: [UInt8] = []
        for block in blocks {
            table.replaceSubrange((block.index * 4)..<(block.index * 4 + 4), with: Self.big(UInt32(sector)))
            content += block.bitmap + block.data
            sector += (block.bitmap.count + block.data.count) / 512
        }
        let texts = locators.flatMap { $0.text + [UInt8](repeating: 0, count: 512 - $0.text.count) }
        let start = footer() + header(textOffset: UInt64(textOffset)) + table + afterTable
        return start + texts + content + footer().prefix(tailBytes)
    }

    // MARK: - Parts

    static func big(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian, Array.init) }

    static func utf16LE(_ text: String) -> [UInt8] { text.utf16.flatMap { [UInt8($0 & 0xFF), UInt8($0 >> 8)] } }

    static func utf16BE(_ text: String) -> [UInt8] { text.utf16.flatMap { [UInt8($0 >> 8), UInt8($0 & 0xFF)] } }

    /// Four characters, filled with zeros.
    static func ascii(_ text: String) -> [UInt8] { Array((Array(text.utf8) + [0, 0, 0, 0]).prefix(4)) }

    /// The structure with its checksum, the one's complement of the sum of its bytes, at `field`.
    static func summed(_ bytes: [UInt8], at field: Int) -> [UInt8] {
        var bytes = bytes
        bytes.replaceSubrange(field..<(field + 4), with: [0, 0, 0, 0])
        let sum = bytes.reduce(UInt32(0)) { $0 &+ UInt32($1) }
        bytes.replaceSubrange(field..<(field + 4), with: big(~sum))
        return bytes
    }
}

/// What tests ask of drivers.
enum Asking {
    static func open(_ storage: any Storage, options: FormatOptions = FormatOptions()) throws -> any FormatDriver {
        try VHD.open(OpenRequest(storage: storage, companions: NoCompanions(), options: options))
    }

    static func open(_ bytes: [UInt8], options: FormatOptions = FormatOptions()) throws -> any FormatDriver {
        try open(MemoryStorage(bytes), options: options)
    }

    /// The error of an open that must fail.
    static func refusal(_ bytes: [UInt8]) -> ImageError? {
        do {
            _ = try open(bytes)
            return nil
        } catch { return error as? ImageError }
    }

    /// The runs of a range, asked for until it is covered.
    static func runs(
        _ driver: any FormatDriver, _ range: ByteRange, _ detail: MapDetail = .placement
    ) throws -> [Extent] {
        var result: [Extent] = []
        var rest = range
        while !rest.isEmpty {
            var list = ExtentList(for: rest)
            try driver.map(detail, into: &list)
            guard list.covered > 0 else { throw ImageError(.corrupt, "the driver answers nothing") }
            for index in 0..<list.count { result.append(list[index]) }
            rest = rest.dropping(first: list.covered)
        }
        return result
    }

    /// One word a run: "data 100+512", "zero 512", "hole 512".
    static func words(_ driver: any FormatDriver, _ range: ByteRange? = nil) throws -> [String] {
        try runs(driver, range ?? ByteRange(0, to: driver.shape.virtualSize)).map { run in
            switch run.place {
            case .data(_, let offset): "data \(offset.rawValue)+\(run.length)"
            case .encoded: "encoded \(run.length)"
            case .zero: "zero \(run.length)"
            case .hole: "hole \(run.length)"
            }
        }
    }

    /// The bytes of a range as a chain of drivers shows them, the top one first.
    static func read(_ chain: [any FormatDriver], _ range: ByteRange) throws -> [UInt8] {
        guard let top = chain.first else { return [UInt8](repeating: 0, count: Int(range.length)) }
        let inside = range.clipped(to: top.shape.virtualSize)
        var result: [UInt8] = []
        var position = range.lower
        for run in try runs(top, inside) {
            let part = ByteRange(position, to: position + run.length)
            switch run.place {
            case .data(let file, let offset):
                result += try top.files[Int(file.rawValue)].bytes(at: offset, count: Int(run.length))
            case .hole: result += try read(Array(chain.dropFirst()), part)
            case .zero: result += [UInt8](repeating: 0, count: Int(run.length))
            case .encoded: throw ImageError(.corrupt, "a VHD has no encoded runs")
            }
            position += run.length
        }
        return result + [UInt8](repeating: 0, count: Int(range.length) - result.count)
    }
}
