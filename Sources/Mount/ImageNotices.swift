internal import Disk
internal import Logging
internal import Storage
internal import Synchronization

/// Which remarks about an image are in the log already: each is written once for as long as the image is known.
final class ImageNotices: Sendable {
    let sectors = Atomic<Bool>(false)
    let table = Atomic<Bool>(false)
}

extension ImageFile {
    /// Says what the user should know of the image that was named, before the mount answers: then it reaches the
    /// terminal.
    func tellOnMounting(_ disk: Disk) {
        tellOfSectors(disk)
        guard context.options.partitions else { return }
        do throws(ImageError) { tell(of: try disk.partitionTable(), on: disk) } catch {
            context.log.warning("\(error.named(disk.name))")
        }
    }

    /// Says how a disk with large sectors gets onto a loop device. Those count in 512 bytes unless they are told.
    func tellOfSectors(_ disk: Disk) {
        guard let remark = disk.sectorRemark, !notices.sectors.exchange(true, ordering: .relaxed) else { return }
        context.log.notice("\(disk.name): \(remark)")
    }

    /// Says why the disk shows no partitions, or what is odd about its table.
    func tell(of table: PartitionTable, on disk: Disk) {
        guard let report = table.report, !notices.table.exchange(true, ordering: .relaxed) else { return }
        context.log.notice("\(disk.name): \(report)")
    }
}
