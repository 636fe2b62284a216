package import Bytes
package import Formats
internal import Logging
package import Storage
internal import Synchronization

/// One flat disk: what a guest of the image would see, or a part of it.
///
/// A disk is a view: a list of layers, the topmost first, and a window on the bytes that they show together. The whole
/// image, a partition, a snapshot and a lower layer are all of this type, and share the open files. Every method may be
/// called from many threads at once.
package final class Disk: Sendable {
    /// The name for messages: the image's path, and the part of it where this is a part.
    package let name: String
    /// The size in bytes.
    package let size: UInt64
    /// The images that answer, from the one on top down to the base.
    package let layers: [Layer]

    /// Why the chain ends above its base; nil where every image of it is there.
    package var missingParent: ImageError? { layers.last?.missingParent }

    let open: OpenFiles
    /// The cache of `open`, so that a read need not go through that.
    let decoded: DecodeCache
    /// The layers as reads go through them.
    let top: Level
    /// Where this view begins on the disk that the layers show.
    let base: UInt64
    /// What writes; nil where this view is only read.
    let writer: Writer?
    /// What keeps a transfer's space from being given out; nil where nobody writes the files.
    let leases: Leases?
    /// The partition table as it was read last.
    let knownTable = Mutex<KnownTable?>(nil)

    /// A view of `layers`, which are not empty, the topmost first; one that may be written where `isWritable` and the
    /// image is open for it.
    init(name: String, layers: [Layer], window: ByteRange, open: OpenFiles, isWritable: Bool = true) {
        self.name = name
        top = Level(layers[...])
        self.layers = layers
        self.open = open
        decoded = open.decoded
        writer = isWritable ? open.writer : nil
        leases = open.writer?.leases
        base = window.lower
        size = window.length
    }

    /// The unit for st_blksize, in bytes: what the format allocates in, within 4 KiB and 1 MiB.
    package var blockSize: UInt32 {
        let unit = layers.first?.shape.allocationUnit ?? 4096
        return UInt32(min(max(unit, 4096), 1 << 20))
    }

    /// The logical sector size of the disk in bytes: 512 or 4096.
    package var logicalSectorSize: UInt32 { layers.first?.shape.logicalSectorSize ?? 512 }

    /// The number of the layer that is `depth` layers below the topmost one: 0 for the base, as the files of `-o layers`
    /// are named; nil where the base could not be opened.
    package func layerNumber(atDepth depth: Int) -> Int? { missingParent == nil ? layers.count - 1 - depth : nil }

    /// The size of the largest file of the chain in bytes.
    package var largestFile: UInt64 { open.table.map(\.size).max() ?? 0 }

    /// How a disk with sectors that are not of 512 bytes gets onto a loop device; nil where nothing need be said.
    package var sectorRemark: String? {
        guard logicalSectorSize != 512 else { return nil }
        return
            "the sectors of the disk have \(logicalSectorSize) bytes: attach it with losetup -b \(logicalSectorSize); "
            + "mount -o loop makes sectors of 512"
    }

    /// A disk that shows `range` of this one; nil where the range is not within it.
    package func part(_ range: ByteRange, name: String) -> Disk? {
        guard range.upper <= size else { return nil }
        let window = ByteRange(base + range.lower, to: base + range.upper)
        return Disk(name: name, layers: layers, window: window, open: open, isWritable: isWritable)
    }

    /// The disk as layer `index` of `layers` and everything below it show it. An index past the base means the base.
    package func layerDisk(_ index: Int) -> Disk {
        let first = max(0, min(index, layers.count - 1))
        let below = Array(layers[first...])
        return Disk(
            name: below[0].path, layers: below, window: ByteRange(0, to: below[0].shape.virtualSize), open: open,
            isWritable: false)
    }

    /// The internal snapshots of the topmost image, in its order, each with the way to open it.
    package func snapshots() -> [(info: SnapshotInfo, open: @Sendable () throws(ImageError) -> Disk)] {
        guard let driver = layers.first?.driver else { return [] }
        return driver.snapshots.enumerated().map { (index, info) in
            (info: info, open: { [self] () throws(ImageError) -> Disk in try openSnapshot(index) })
        }
    }

    /// Opens the snapshot at `index` of `snapshots()` as a disk of its own. Throws what the format's open throws.
    package func openSnapshot(_ index: Int) throws(ImageError) -> Disk {
        guard let top = layers.first, index >= 0, index < top.driver.snapshots.count else {
            throw ImageError(.outOfRange, "the image has no such snapshot", file: name)
        }
        let driver: any FormatDriver
        do throws(ImageError) { driver = try top.driver.openSnapshot(index) } catch { throw error.named(top.path) }
        let shown = [top.shown(by: driver)] + layers.dropFirst()
        let info = top.driver.snapshots[index]
        return Disk(
            name: "\(top.path), snapshot \(info.id)", layers: shown,
            window: ByteRange(0, to: driver.shape.virtualSize), open: open, isWritable: false)
    }

    /// The state of every file of the image and of what lies below it, to notice changes behind our back. Two equal
    /// answers mean that nothing changed between them. Throws `.io`.
    package func stamps() throws(ImageError) -> [FileStamp] {
        var result: [FileStamp] = []
        for case let file as FileStorage in open.table { result.append(try file.stamp()) }
        return result
    }
}
