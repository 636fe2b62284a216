import Bytes
import Disk
import Storage
import TestSupport

/// The read path alone, without FUSE: for counting instructions (`valgrind --tool=callgrind`) and allocations.
///
/// `ReadBench IMAGE COUNT [BYTES [PARENT]]` does COUNT reads of BYTES (4096) at random, aligned places. Run it with two counts
/// and subtract: what is left is the cost of the reads, the same to the instruction on a busy machine. PARENT stands in
/// for the recorded parent of an overlay, since valgrind does not know the call that opens those (openat2).
@main
struct ReadBench {
    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 3, let count = Int(arguments[2]) else {
            print("usage: ReadBench IMAGE COUNT [BYTES [PARENT]]")
            return
        }
        let bytes = arguments.count > 3 ? UInt64(arguments[3]) ?? 4096 : 4096
        let options = DiskOptions(parents: arguments.count > 4 ? [arguments[4]] : [])
        let disk = try Disk.open(path: arguments[1], options: options)
        try run(disk, count: count, bytes: bytes)
    }

    private static func run(_ disk: Disk, count: Int, bytes: UInt64) throws {
        guard disk.size >= bytes else { return }
        let slots = disk.size / bytes
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Int(bytes), alignment: 4096)
        defer { buffer.deallocate() }
        var random = SeededRandom(seed: 1)
        for _ in 0..<count {
            let start = random.next() % slots * bytes
            try disk.read(ByteRange(start, to: start + bytes), into: buffer)
        }
    }
}
