import Bytes
import Disk
import Formats
import Storage
import TestSupport

/// Counts what a session asks of its host.
enum BarrierCount {
    /// How many barriers a whole session takes that writes to each part of `step` bytes of the disk once, in order.
    static func ofSequentialAllocation(_ fixture: DiskFixture, step: UInt64) throws -> Int {
        let storage = try VHDXCrashStorage(copying: PowerCutMachine(fixture.files.map(\.content)).storages[0])
        let disk = try fixture.open([storage], true)
        for offset in stride(from: 0, to: disk.size, by: Int(step)) {
            let byte = [UInt8(truncatingIfNeeded: offset / step) | 1]
            try byte.withUnsafeBytes { try disk.write(ByteRange(offset, to: offset + 1), from: $0) }
        }
        try disk.finish()
        let last = disk.size - step
        let kept = try fixture.open([storage], false).contents(ByteRange(last, to: last + 1))
        try ContractViolation.check(kept == [UInt8(truncatingIfNeeded: last / step) | 1], "the last block is lost")
        return storage.flushes
    }
}
